"""The status of a run: collected by `run_status_collection`, printed by `run_status_text`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a phase of a task is."""

    phase: str
    done: int
    total: int
    unit: str
    seconds_each: float | None
    ends: datetime | None
    """When it will come to its end, if it goes on as it did."""

    figures: Mapping[str, float]
    at: datetime
    """When it was told."""


@dataclass(frozen=True)
class Warned:
    """A warning in the log."""

    at: datetime
    event: str
    text: str


@dataclass(frozen=True)
class TaskStatus:
    """How a task is."""

    task: str
    state: str = "pending"
    """`pending`, `running`, `silent` (it ran, and gives no sign of life), `stopped`, `failed` or
    `finished`."""

    started: datetime | None = None
    ended: datetime | None = None
    last_sign: datetime | None = None
    progress: Progress | None = None
    job: str = ""
    """What its launcher last said of its job."""

    result: str = ""
    """Where its result is."""

    checkpoints: Mapping[str, Any] = field(default_factory=dict)
    """What was last said of a checkpoint: `place`, `turn`, `update`, `at`."""

    warnings: tuple[Warned, ...] = ()
    wrong: str = ""
    repair: str = ""


@dataclass(frozen=True)
class CheckpointStatus:
    """The newest checkpoint."""

    location: str
    turn: int
    update: int | None
    """None if no sign of life tells of this one."""

    saved: datetime | None
    bytes: int


@dataclass(frozen=True)
class RunStatus:
    """How a run is."""

    run: str
    """Id of the MLflow run; empty without one."""

    name: str
    workspace: str
    page: str
    """Address of the MLflow run."""

    artifacts: str
    state: str
    """As of a task; or `waiting`, between two tasks."""

    tasks: tuple[TaskStatus, ...]
    checkpoint: CheckpointStatus | None
    wrong: str
    repair: str
    not_read: tuple[str, ...]
    """What could not be asked, and why."""

    others: tuple[str, ...]
    """Ids of other runs of the workspace."""

    asked: datetime

    @property
    def current(self) -> TaskStatus:
        """The task that the run is at, or was at last."""
        begun = [one for one in self.tasks if one.state != "pending"]
        open_ones = [one for one in begun if one.state != "finished"]
        return (open_ones or begun or list(self.tasks))[-1]
