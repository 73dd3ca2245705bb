"""Model of a run's status: `run_status_collection` makes it, `run_status_text` prints it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from advgrpo.telemetry.formatting import format_duration

UNRESPONSIVE = "unresponsive"

# Between two tasks a pod may wait for its node and its image.
_PAUSE_SECONDS = 900.0


@dataclass(frozen=True)
class PhaseProgress:
    """Progress of a phase of a task."""

    phase: str
    done: int
    total: int
    unit: str
    seconds_each: float | None
    ends: datetime | None
    """Estimated end; None before the first unit is done."""

    metrics: Mapping[str, float]
    at: datetime


@dataclass(frozen=True)
class LogWarning:
    """A warning in a task's log."""

    at: datetime
    event: str
    text: str


@dataclass(frozen=True)
class LastCheckpoint:
    """The last checkpoint that a task saved or resumed from."""

    place: str
    rollout: int
    update: int
    at: datetime
    event: str


@dataclass(frozen=True)
class TaskStatus:
    """Status of a task."""

    task: str
    state: str = "pending"
    """`pending`, `running`, `unresponsive` (running, but without a recent heartbeat), `stopped`,
    `failed` or `finished`."""

    started: datetime | None = None
    ended: datetime | None = None
    heartbeat: datetime | None = None
    progress: PhaseProgress | None = None
    job: str = ""
    """State of its job, as its launcher last logged it."""

    result: str = ""
    """Location of its result."""

    checkpoint: LastCheckpoint | None = None
    warnings: tuple[LogWarning, ...] = ()
    error: str = ""
    repair: str = ""

    @property
    def has_started(self) -> bool:
        """Whether the task has started."""
        return self.state != "pending"


@dataclass(frozen=True)
class CheckpointStatus:
    """The newest checkpoint in the workspace."""

    location: str
    rollout: int
    update: int | None
    """None if no heartbeat names this checkpoint."""

    saved: datetime | None
    bytes: int


@dataclass(frozen=True)
class RunStatus:
    """Status of a run."""

    run: str
    """Id of the MLflow run; empty without one."""

    name: str
    workspace: str
    page: str
    """Address of the MLflow run."""

    artifacts: str
    state: str
    """State of the task that decides it; or `waiting`, between two tasks."""

    tasks: tuple[TaskStatus, ...]
    checkpoint: CheckpointStatus | None
    error: str
    repair: str
    unavailable: tuple[str, ...]
    """Sources that could not be read, each with the reason."""

    other_runs: tuple[str, ...]
    """Ids of other runs of the workspace."""

    at: datetime

    @property
    def current(self) -> TaskStatus:
        """The task that is running, or that ran last."""
        started = [task for task in self.tasks if task.has_started]
        unfinished = [task for task in started if task.state != "finished"]
        return (unfinished or started or list(self.tasks))[-1]


def verdict(tasks: Sequence[TaskStatus], in_mlflow: str, now: datetime) -> tuple[str, str, str]:
    """Return the state of a run, its error and the repair.

    Args:
        tasks: Status of its tasks.
        in_mlflow: Status of its MLflow run; empty if unknown.
        now: The current time.
    """
    started = [task for task in tasks if task.has_started]
    bad = [task for task in started if task.state in {"failed", "stopped", UNRESPONSIVE}]
    if bad:
        return _verdict_on(bad[-1], now)
    if any(task.state == "running" for task in started):
        return "running", "", ""
    if all(task.state == "finished" for task in tasks) or in_mlflow == "FINISHED":
        return "finished", "", ""
    last = started[-1]
    if in_mlflow == "FAILED":
        error = f"MLflow records the run as failed, after the task {last.task}"
        return "failed", error, "read the log of the pipeline's run"
    age = (now - (last.ended or now)).total_seconds()
    if age <= _PAUSE_SECONDS:
        return "waiting", "", ""
    error = f"no task has started since {last.task} ended {format_duration(age)} ago"
    return UNRESPONSIVE, error, "check the pipeline's run; run it again to resume"


def _verdict_on(task: TaskStatus, now: datetime) -> tuple[str, str, str]:
    if task.state == UNRESPONSIVE:
        age = (now - (task.heartbeat or now)).total_seconds()
        error = (
            f"the task {task.task} has sent no heartbeat for {format_duration(age)}: its process "
            "was probably killed, or cannot reach the workspace"
        )
        repair = "check its log or pod; run it again with the same settings and workspace"
        return task.state, error, repair
    how = "failed" if task.state == "failed" else "was stopped"
    return task.state, f"the task {task.task} {how}: {task.error}".rstrip(": "), task.repair
