"""What the files of a run's signs of life must hold for `advgrpo status` to heed them.

Whoever may write the workspace can leave others, and so can another release.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_FIRST_YEAR, _LAST_YEAR = 1971, 2999
_LONGEST_SECONDS = 1e10


def _moment(text: str) -> str:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError("it is no time of a run")
    return text


Moment = Annotated[str, AfterValidator(_moment)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=-_LONGEST_SECONDS, le=_LONGEST_SECONDS)]


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True)


class ProgressInfo(_Schema):
    """How far a phase is."""

    phase: str
    done: Count
    total: Count
    unit: str
    seconds_each: Seconds | None = None
    seconds_left: Seconds | None
    figures: dict[str, float]
    at: Moment


class CheckpointInfo(_Schema):
    """What was last said of a checkpoint."""

    place: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    turn: Count
    update: Count
    at: Moment
    event: str


class WarningInfo(_Schema):
    """A warning in the log."""

    at: Moment
    event: str
    text: str


class FailureInfo(_Schema):
    """How a task failed."""

    message: str
    repair: str


class Heartbeat(_Schema):
    """A process's sign of life."""

    role: Literal["launcher", "task", "rank"]
    started: Moment
    beat: Moment
    state: Literal["running", "finished", "stopped", "failed"]
    warnings: list[WarningInfo]
    ended: Moment | None = None
    progress: ProgressInfo | None = None
    checkpoint: CheckpointInfo | None = None
    failure: FailureInfo | None = None
    job: str = ""
    result: str = ""


class RunInfo(_Schema):
    """What a run is, noted at its start."""

    started: Moment
    workspace: str = ""
    name: str = ""
