"""How a run is: told from its signs of life in the workspace, and from MLflow, and nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from advgrpo.errors import AdvGrpoError, ConfigError, StorageNotFoundError
from advgrpo.records import ALARM_METRIC
from advgrpo.runtime.heartbeat import RUN_FILE, RUNS, WITHOUT_MLFLOW
from advgrpo.runtime.heartbeat_schema import Heartbeat, RunInfo
from advgrpo.runtime.pipeline_tasks import PIPELINE_TASKS
from advgrpo.runtime.run_status import CheckpointStatus, Progress, RunStatus, TaskStatus, Warned
from advgrpo.runtime.task_context import FAILURE_TAG
from advgrpo.storage import join, scheme, storage_for

TASKS = tuple(task.name for task in PIPELINE_TASKS)

SILENT_SECONDS = 150.0
"""Time without a sign of life from which on a process is taken for dead."""

_PAUSE_SECONDS = 900.0
"""Time that may pass between two tasks, for instance while a pod waits for its node."""

_OF_MLFLOW = {
    "RUNNING": "running",
    "SCHEDULED": "running",
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "stopped",
}
_OUTERMOST = ("launcher", "task", "rank")
_COMMIT = "/commit.json"


def run_status(run: str, *, tracking_uri: str, now: datetime | None = None) -> RunStatus:
    """Say how a run is.

    Args:
        run: Id or name of its MLflow run, or its workspace: an `s3://` location, or a local folder.
        tracking_uri: The MLflow server; empty for none.
        now: The time, for tests.

    Raises:
        ConfigError: If it does not say which run, or there is none.
        StorageError: If the workspace is meant and cannot be read.
        TrackingError: If an MLflow run is meant, and there is none or MLflow is not available.
    """
    now = now or datetime.now(UTC)
    if scheme(run) or "/" in run or Path(run).is_dir():
        return _of_workspace(run.rstrip("/"), tracking_uri, now)
    if not tracking_uri:
        raise ConfigError(
            f"{run} is no folder, and there is no MLflow server that could know a run {run}",
            repair="give the run's workspace, or set MLFLOW_TRACKING_URI",
        )
    # MLflow takes seconds to load.
    from advgrpo.tracking.run_lookup import find_run  # noqa: PLC0415

    found = find_run(run, tracking_uri)
    files: Mapping[str, Any] = {}
    not_read: tuple[str, ...] = ()
    if found.workspace:
        try:
            files = _signs(found.workspace, found.run_id).get(found.run_id, {})
        except AdvGrpoError as error:
            not_read = (f"the workspace: {error.message}",)
    return _status(found.run_id, found.workspace, files, found, now, not_read=not_read)


def _of_workspace(workspace: str, tracking_uri: str, now: datetime) -> RunStatus:
    runs = _signs(workspace)
    if not runs:
        raise ConfigError(
            f"no run left a sign of life in {workspace}",
            repair="give the workspace that the run was started with, or its MLflow run",
        )
    newest = max(runs, key=lambda run: max(map(_beat, runs[run].values())))
    found: Any = None
    not_read: tuple[str, ...] = ()
    if tracking_uri and newest != WITHOUT_MLFLOW:
        from advgrpo.tracking.run_lookup import find_run  # noqa: PLC0415 - likewise

        try:
            found = find_run(newest, tracking_uri)
        except AdvGrpoError as error:
            not_read = (f"MLflow: {error.message}",)
    others = tuple(sorted(set(runs) - {newest}))
    files = runs[newest]
    return _status(newest, workspace, files, found, now, not_read=not_read, others=others)


def _signs(workspace: str, only: str = "") -> dict[str, dict[str, dict[str, Any]]]:
    """Read the files of all runs, or of one: run, then name below its folder, then content."""
    folder = join(workspace, RUNS)
    storage = storage_for(folder)
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for below in storage.list_files(join(folder, only)):
        name = f"{only}/{below}" if only else below
        run, _, inner = name.partition("/")
        try:
            model = RunInfo if inner == RUN_FILE else Heartbeat
            content = model.model_validate_json(storage.read_bytes(join(folder, name)))
        except (StorageNotFoundError, ValidationError):
            # Deleted meanwhile, or not ours.
            continue
        runs.setdefault(run, {})[inner] = content.model_dump()
    return runs


def _status(
    run: str,
    workspace: str,
    files: Mapping[str, Any],
    found: Any,  # noqa: ANN401 - a FoundRun, whose module loads MLflow
    now: datetime,
    *,
    not_read: Sequence[str] = (),
    others: tuple[str, ...] = (),
) -> RunStatus:
    facts = files.get(RUN_FILE, {})
    tasks = _tasks(files, found, now)
    state, wrong, repair = _verdict(tasks, found, now)
    checkpoint, fault = _checkpoint(tasks, str(facts.get("workspace", "")), workspace)
    if state in {"silent", "stopped"} and checkpoint is not None and checkpoint.update is not None:
        repair += f"; it goes on from update {checkpoint.update}"
    return RunStatus(
        run="" if run == WITHOUT_MLFLOW else run,
        name=str(facts.get("name") or (found.name if found else "")),
        workspace=workspace,
        page=found.page if found else "",
        artifacts=found.artifacts if found else "",
        state=state,
        tasks=tasks,
        checkpoint=checkpoint,
        wrong=wrong,
        repair=repair,
        not_read=(*not_read, *fault),
        others=others,
        asked=now,
    )


def _tasks(files: Mapping[str, Any], found: Any, now: datetime) -> tuple[TaskStatus, ...]:  # noqa: ANN401
    by_task: dict[str, list[dict[str, Any]]] = {}
    for name, content in files.items():
        task, _, _ = name.partition("/")
        if name != RUN_FILE:
            by_task.setdefault(task, []).append(content)
    tasks = {task: _merged(task, signs, now) for task, signs in by_task.items()}
    for one in found.tasks if found else ():
        if one.task in tasks:
            tasks[one.task] = _with_alarm(tasks[one.task], one)
        else:
            tasks[one.task] = _of_mlflow(one)
    if RUN_FILE in files or found:
        begun = _moment(files[RUN_FILE]["started"]) if RUN_FILE in files else found.started
        first = TaskStatus(TASKS[0], "finished", started=begun, ended=begun, last_sign=begun)
        tasks[TASKS[0]] = first
        tasks = {name: TaskStatus(name) for name in TASKS} | tasks
    order = [*TASKS, *sorted(tasks.keys() - set(TASKS))]
    return tuple(tasks[name] for name in order if name in tasks)


def _merged(task: str, signs: list[dict[str, Any]], now: datetime) -> TaskStatus:
    """Put the words of a task's processes together; the last one to speak knows how it is."""
    last = max(signs, key=_beat)
    silence = timedelta(seconds=SILENT_SECONDS)
    lives = any(one["state"] == "running" and now - _beat(one) <= silence for one in signs)
    state = "running" if lives else last["state"]
    if state == "running" and not lives:
        state = "silent"
    outermost = min(signs, key=lambda one: _OUTERMOST.index(one["role"]))
    started = _moment(outermost["started"])
    told = [one["progress"] for one in signs if one.get("progress")]
    newest = max(told, key=lambda one: str(one["at"]), default=None)
    saved = [one["checkpoint"] for one in signs if one.get("checkpoint")]
    failure = last.get("failure") or {}
    is_over = state in {"failed", "stopped"}
    # What an earlier attempt told is no longer so.
    current = newest if newest and _moment(newest["at"]) >= started else None
    return TaskStatus(
        task=task,
        state=state,
        started=started,
        ended=None if lives or last["ended"] is None else _moment(last["ended"]),
        last_sign=_beat(last),
        progress=_progress(current) if current else None,
        job=str(outermost.get("job", "")),
        result=str(next((one["result"] for one in signs if one.get("result")), "")),
        checkpoints=max(saved, key=lambda one: str(one["at"]), default={}),
        warnings=_warnings(signs),
        wrong=str(failure.get("message", "")) if is_over else "",
        repair=str(failure.get("repair", "")) if is_over else "",
    )


def _progress(told: Mapping[str, Any]) -> Progress:
    at, left = _moment(told["at"]), told["seconds_left"]
    return Progress(
        phase=told["phase"],
        done=told["done"],
        total=told["total"],
        unit=told["unit"],
        seconds_each=told.get("seconds_each"),
        ends=None if left is None else at + timedelta(seconds=left),
        figures=told["figures"],
        at=at,
    )


def _warnings(signs: Iterable[Mapping[str, Any]]) -> tuple[Warned, ...]:
    found = {
        one["text"]: Warned(_moment(one["at"]), one["event"], one["text"])
        for sign in signs
        for one in sign["warnings"]
    }
    return tuple(sorted(found.values(), key=lambda one: one.at))


def _of_mlflow(found: Any) -> TaskStatus:  # noqa: ANN401
    message, _, repair = found.tags.get(FAILURE_TAG, "").partition("\n  repair: ")
    state = _OF_MLFLOW.get(found.status, "running")
    failed = state == "failed"
    status = TaskStatus(
        task=found.task,
        state=state,
        started=found.started,
        ended=found.ended,
        last_sign=found.ended or found.started,
        wrong=(message or "the log of the task says why") if failed else "",
        repair=repair if failed else "",
    )
    return _with_alarm(status, found)


def _with_alarm(status: TaskStatus, found: Any) -> TaskStatus:  # noqa: ANN401
    alarm = found.tags.get(ALARM_METRIC)
    if alarm is None or any(one.event == "alarm_raised" for one in status.warnings):
        return status
    told = Warned(found.ended or found.started, "alarm_raised", alarm)
    return replace(status, warnings=(*status.warnings, told))


def _verdict(
    tasks: Sequence[TaskStatus],
    found: Any,  # noqa: ANN401
    now: datetime,
) -> tuple[str, str, str]:
    """Say how the run is, what is wrong with it, and what to do."""
    begun = [one for one in tasks if one.state != "pending"]
    bad = [one for one in begun if one.state in {"failed", "stopped", "silent"}]
    if bad:
        return _verdict_of(bad[-1], now)
    if any(one.state == "running" for one in begun):
        return "running", "", ""
    if all(one.state == "finished" for one in tasks) or (found and found.status == "FINISHED"):
        return "finished", "", ""
    last = begun[-1]
    age = (now - (last.ended or now)).total_seconds()
    if found and found.status == "FAILED":
        wrong = f"MLflow has the run as failed, after the task {last.task}"
        return "failed", wrong, "read the log of the pipeline's run"
    if age <= _PAUSE_SECONDS:
        return "waiting", "", ""
    wrong = f"nothing has begun since the task {last.task} ended {_minutes(age)} ago"
    return "silent", wrong, "look at the pipeline's run; run it again to go on"


def _verdict_of(task: TaskStatus, now: datetime) -> tuple[str, str, str]:
    if task.state == "silent":
        age = (now - (task.last_sign or now)).total_seconds()
        wrong = (
            f"the task {task.task} has given no sign of life for {_minutes(age)}: its process was "
            "probably killed, or cannot reach the workspace"
        )
        repair = "look at its log or pod; run it again with the same settings and workspace"
        return task.state, wrong, repair
    how = "failed" if task.state == "failed" else "was stopped"
    return task.state, f"the task {task.task} {how}: {task.wrong}".rstrip(": "), task.repair


def _checkpoint(
    tasks: Sequence[TaskStatus], workspace: str, asked: str
) -> tuple[CheckpointStatus | None, tuple[str, ...]]:
    """Find the newest checkpoint, and what kept from it.

    Args:
        tasks: What they told.
        workspace: Where they saw their workspace; empty if nobody noted it.
        asked: Where we see it.
    """
    told = next((one.checkpoints for one in tasks if one.checkpoints), None)
    if told is None:
        return None, ()
    place = str(told["place"])
    if workspace and asked and place.startswith(f"{workspace}/"):
        place = asked + place.removeprefix(workspace)
    if not _is_within(place, asked):
        # Whoever may write a sign must not have us look through another place.
        return None, (f"checkpoints: {place} lies outside of {asked or 'any workspace'}",)
    try:
        files = storage_for(place).list_files(place)
    except AdvGrpoError as error:
        return None, (f"checkpoints: {error.message}",)
    whole = sorted(
        name.removesuffix(_COMMIT)
        for name in files
        # Beside them lies what is kept of rollouts that went wrong.
        if name.startswith("turn-") and name.endswith(_COMMIT)
    )
    if not whole:
        return None, ()
    newest = whole[-1]
    turn = int(newest.rpartition("-")[2])
    is_told = turn == told["turn"]
    saved = is_told and told["event"] == "checkpoint_saved"
    return CheckpointStatus(
        location=join(place, newest),
        turn=turn,
        update=told["update"] if is_told else None,
        saved=_moment(told["at"]) if saved else None,
        bytes=sum(state.bytes for name, state in files.items() if name.startswith(f"{newest}/")),
    ), ()


def _is_within(place: str, folder: str) -> bool:
    if scheme(place) or scheme(folder):
        return place.startswith(f"{folder.rstrip('/')}/")
    return bool(folder) and Path(place).resolve().is_relative_to(Path(folder).resolve())


def _beat(sign: Mapping[str, Any]) -> datetime:
    return _moment(sign.get("beat") or sign["started"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.0f} days"
