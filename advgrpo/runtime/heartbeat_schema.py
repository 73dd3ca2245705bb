"""Schema of the heartbeat files that `advgrpo status` reads.

Everyone who may write the workspace can leave other files there, and so can another release.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# Times outside of this range overflow when a duration is added to them or subtracted.
_FIRST_YEAR, _LAST_YEAR = 1971, 2999
_MAX_SECONDS = 1e10


def _check_time(text: str) -> str:
    time = datetime.fromisoformat(text)
    # Python refuses to compare a time without a zone with one that has a zone.
    if time.tzinfo is None or not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise ValueError("not a time with a zone of these centuries")
    return text


Time = Annotated[str, AfterValidator(_check_time)]
# Above 2**53 a JSON reader that uses floats loses the last digits.
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(ge=-_MAX_SECONDS, le=_MAX_SECONDS)]


class _Schema(BaseModel):
    # Strict: a file in which numbers are texts is not one of ours.
    model_config = ConfigDict(strict=True)


class ProgressInfo(_Schema):
    """Progress of a phase."""

    phase: str
    done: Count
    total: Count
    unit: str
    seconds_each: Seconds | None = None
    seconds_left: Seconds | None
    metrics: dict[str, float]
    at: Time


class CheckpointInfo(_Schema):
    """The last checkpoint that was saved or resumed from."""

    place: Annotated[str, Field(pattern=r"^[^\x00]+$")]
    rollout: Count
    update: Count
    at: Time
    event: str


class WarningInfo(_Schema):
    """A warning in the log."""

    at: Time
    event: str
    text: str


class FailureInfo(_Schema):
    """The error that a task ended with."""

    message: str
    repair: str


class Heartbeat(_Schema):
    """Heartbeat of a process."""

    role: Literal["launcher", "task", "rank"]
    started: Time
    heartbeat_at: Time
    state: Literal["running", "finished", "stopped", "failed"]
    warnings: list[WarningInfo]
    ended: Time | None = None
    progress: ProgressInfo | None = None
    checkpoint: CheckpointInfo | None = None
    failure: FailureInfo | None = None
    job: str = ""
    result: str = ""


class RunInfo(_Schema):
    """What identifies a run, written at its start."""

    started: Time
    workspace: str = ""
    name: str = ""
