"""Collection of a run's status, from its heartbeats in the workspace and from MLflow alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from advgrpo.errors import AdvGrpoError, ConfigError, StorageNotFoundError
from advgrpo.records import ALARM_METRIC
from advgrpo.runtime.heartbeat import RUN_FILE, RUNS, WITHOUT_MLFLOW
from advgrpo.runtime.heartbeat_schema import Heartbeat, ProgressInfo, RunInfo
from advgrpo.runtime.pipeline_tasks import PIPELINE_TASKS
from advgrpo.runtime.run_status import (
    UNRESPONSIVE,
    LastCheckpoint,
    LogWarning,
    PhaseProgress,
    RunStatus,
    TaskStatus,
    verdict,
)
from advgrpo.runtime.run_status_checkpoint import newest_checkpoint
from advgrpo.runtime.task_context import FAILURE_TAG
from advgrpo.storage.files import storage_for
from advgrpo.storage.locations import join, scheme
from advgrpo.strict_json import unique_keys

if TYPE_CHECKING:
    from advgrpo.tracking.run_lookup import FoundRun, FoundTask

UNRESPONSIVE_SECONDS = 150.0
"""Age of the last heartbeat from which on a process counts as dead."""

_STATES_OF_MLFLOW = {
    "RUNNING": "running",
    "SCHEDULED": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "stopped",
}
_ROLES = ("launcher", "task", "rank")
"""Roles of a task's processes, from the one that starts the others."""


@dataclass
class _RunFiles:
    """Files of a run below `runs/<run>`."""

    info: RunInfo | None
    heartbeats: dict[str, list[Heartbeat]]
    """Task -> heartbeats of its processes."""

    @property
    def last(self) -> datetime:
        """Time of the newest file."""
        times = [_time(one.heartbeat_at) for each in self.heartbeats.values() for one in each]
        return max([*times, *([_time(self.info.started)] if self.info else [])])


def run_status(run: str, *, tracking_uri: str, now: datetime | None = None) -> RunStatus:
    """Return the status of a run.

    Args:
        run: Id or name of its MLflow run, or its workspace: an `s3://` location or a local folder.
        tracking_uri: The MLflow server; empty for none.
        now: The current time, for tests.

    Raises:
        ConfigError: If the text does not identify one run.
        StorageError: If `run` is a workspace that cannot be read.
        TrackingError: If `run` is an MLflow run that does not exist, or MLflow is not available.
    """
    now = now or datetime.now(UTC)
    if scheme(run) or "/" in run or Path(run).is_dir():
        return _status_of_workspace(run.rstrip("/"), tracking_uri, now)
    if not tracking_uri:
        raise ConfigError(
            f"{run} is not a folder, and without an MLflow server no run {run} can be looked up",
            repair="name the run's workspace, or set MLFLOW_TRACKING_URI",
        )
    # MLflow takes seconds to load.
    from advgrpo.tracking.run_lookup import find_run  # noqa: PLC0415

    mlflow_run = find_run(run, tracking_uri)
    files: _RunFiles | None = None
    unavailable: tuple[str, ...] = ()
    if mlflow_run.workspace:
        try:
            files = _read_files(mlflow_run.workspace, mlflow_run.run_id).get(mlflow_run.run_id)
        except AdvGrpoError as error:
            unavailable = (f"the workspace: {error.message}",)
    status = _status(mlflow_run.run_id, mlflow_run.workspace, files, mlflow_run, now)
    return replace(status, unavailable=(*unavailable, *status.unavailable))


def _status_of_workspace(workspace: str, tracking_uri: str, now: datetime) -> RunStatus:
    runs = _read_files(workspace)
    if not runs:
        raise ConfigError(
            f"there is no heartbeat of a run in {workspace}",
            repair="name the workspace that the run was started with, or its MLflow run",
        )
    # A workspace may hold several runs: the one active last is shown, the others are listed by id.
    newest = max(runs, key=lambda run: runs[run].last)
    mlflow_run: FoundRun | None = None
    unavailable: tuple[str, ...] = ()
    if tracking_uri and newest != WITHOUT_MLFLOW:
        from advgrpo.tracking.run_lookup import find_run  # noqa: PLC0415 - likewise

        try:
            mlflow_run = find_run(newest, tracking_uri)
        except AdvGrpoError as error:
            unavailable = (f"MLflow: {error.message}",)
    status = _status(newest, workspace, runs[newest], mlflow_run, now)
    return replace(
        status,
        unavailable=(*unavailable, *status.unavailable),
        other_runs=tuple(sorted(set(runs) - {newest})),
    )


def _read_files(workspace: str, only: str = "") -> dict[str, _RunFiles]:
    """Read the files of all runs, or of one."""
    folder = join(workspace, RUNS)
    storage = storage_for(folder)
    runs: dict[str, _RunFiles] = {}
    for below in storage.list_files(join(folder, only)):
        name = f"{only}/{below}" if only else below
        run, _, inner = name.partition("/")
        try:
            content = storage.read_bytes(join(folder, name))
            if inner == RUN_FILE:
                info = RunInfo.model_validate_json(unique_keys(content))
                runs.setdefault(run, _RunFiles(None, {})).info = info
            else:
                beat = Heartbeat.model_validate_json(unique_keys(content))
                task = inner.partition("/")[0]
                runs.setdefault(run, _RunFiles(None, {})).heartbeats.setdefault(task, []).append(
                    beat
                )
        # A ValidationError is a ValueError.
        except (StorageNotFoundError, ValueError):
            # Deleted since it was listed, or not a file of ours.
            continue
    return runs


def _status(
    run: str,
    workspace: str,
    files: _RunFiles | None,
    mlflow_run: "FoundRun | None",
    now: datetime,
) -> RunStatus:
    info = files.info if files else None
    tasks = _tasks(files, mlflow_run, now)
    state, error, repair = verdict(tasks, mlflow_run.status if mlflow_run else "", now)
    checkpoint, fault = newest_checkpoint(tasks, info.workspace if info else "", workspace)
    if state in {UNRESPONSIVE, "stopped"} and checkpoint and checkpoint.update is not None:
        repair += f"; it resumes from update {checkpoint.update}"
    return RunStatus(
        run="" if run == WITHOUT_MLFLOW else run,
        name=(info.name if info else "") or (mlflow_run.name if mlflow_run else ""),
        workspace=workspace,
        page=mlflow_run.page if mlflow_run else "",
        artifacts=mlflow_run.artifacts if mlflow_run else "",
        state=state,
        tasks=tasks,
        checkpoint=checkpoint,
        error=error,
        repair=repair,
        unavailable=fault,
        other_runs=(),
        at=now,
    )


def _tasks(
    files: _RunFiles | None, mlflow_run: "FoundRun | None", now: datetime
) -> tuple[TaskStatus, ...]:
    heartbeats = files.heartbeats if files else {}
    tasks = {task: _merge(task, beats, now) for task, beats in heartbeats.items()}
    for one in mlflow_run.tasks if mlflow_run else ():
        status = tasks.get(one.task) or _status_in_mlflow(one)
        tasks[one.task] = _with_alarm(status, one)
    names = [task.name for task in PIPELINE_TASKS]
    begun = _time(files.info.started) if files and files.info else None
    if begun is None and mlflow_run:
        begun = mlflow_run.started
    if begun is not None:
        # The first task writes the run's file and opens the MLflow run at its end.
        first = names[0]
        tasks[first] = TaskStatus(first, "finished", started=begun, ended=begun, heartbeat=begun)
        tasks = {name: TaskStatus(name) for name in names} | tasks
    order = [*names, *sorted(tasks.keys() - set(names))]
    return tuple(tasks[name] for name in order if name in tasks)


def _merge(task: str, beats: Sequence[Heartbeat], now: datetime) -> TaskStatus:
    """Return the status of a task from the heartbeats of its processes; the newest one decides."""
    last = max(beats, key=lambda beat: _time(beat.heartbeat_at))
    oldest = now - timedelta(seconds=UNRESPONSIVE_SECONDS)
    # One living process is enough: the launcher waits while the pods of its job restart.
    alive = any(beat.state == "running" and _time(beat.heartbeat_at) >= oldest for beat in beats)
    state: str = "running" if alive else last.state
    if state == "running" and not alive:
        state = UNRESPONSIVE
    outermost = min(beats, key=lambda beat: _ROLES.index(beat.role))
    started = _time(outermost.started)
    progress = [beat.progress for beat in beats if beat.progress]
    # Times are written in UTC with a fixed precision, so their texts have the order of time.
    newest = max(progress, key=lambda one: one.at, default=None)
    # The file of a rank may still be that of an earlier attempt.
    is_current = newest is not None and _time(newest.at) >= started
    failure = last.failure if state in {"failed", "stopped"} else None
    warnings = {
        one.text: LogWarning(_time(one.at), one.event, one.text)
        for beat in beats
        for one in beat.warnings
    }
    return TaskStatus(
        task=task,
        state=state,
        started=started,
        ended=None if alive or last.ended is None else _time(last.ended),
        heartbeat=_time(last.heartbeat_at),
        progress=_progress(newest) if newest and is_current else None,
        job=outermost.job,
        result=next((beat.result for beat in beats if beat.result), ""),
        checkpoint=_last_checkpoint(beats),
        warnings=tuple(sorted(warnings.values(), key=lambda one: one.at)),
        error=failure.message if failure else "",
        repair=failure.repair if failure else "",
    )


def _last_checkpoint(beats: Sequence[Heartbeat]) -> LastCheckpoint | None:
    infos = [beat.checkpoint for beat in beats if beat.checkpoint]
    last = max(infos, key=lambda info: info.at, default=None)
    if last is None:
        return None
    return LastCheckpoint(last.place, last.rollout, last.update, _time(last.at), last.event)


def _progress(info: ProgressInfo) -> PhaseProgress:
    at, left = _time(info.at), info.seconds_left
    ends = None if left is None else at + timedelta(seconds=left)
    fields = info.model_dump(exclude={"at", "seconds_left"})
    return PhaseProgress(**fields, ends=ends, at=at)


def _status_in_mlflow(task: "FoundTask") -> TaskStatus:
    message, _, repair = task.tags.get(FAILURE_TAG, "").partition("\n  repair: ")
    state = _STATES_OF_MLFLOW.get(task.status, "running")
    failed = state == "failed"
    return TaskStatus(
        task=task.task,
        state=state,
        started=task.started,
        ended=task.ended,
        heartbeat=task.ended or task.started,
        error=(message or "see the log of the task") if failed else "",
        repair=repair if failed else "",
    )


def _with_alarm(status: TaskStatus, task: "FoundTask") -> TaskStatus:
    alarm = task.tags.get(ALARM_METRIC)
    # The heartbeat keeps only the last warnings, MLflow the alarm.
    if alarm is None or any(one.event == "alarm_raised" for one in status.warnings):
        return status
    warning = LogWarning(task.ended or task.started, "alarm_raised", alarm)
    return replace(status, warnings=(*status.warnings, warning))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
