"""The status of a run as text."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime

from advgrpo.runtime.run_status import (
    UNRESPONSIVE,
    CheckpointStatus,
    PhaseProgress,
    RunStatus,
    TaskStatus,
)
from advgrpo.telemetry.formatting import format_duration, format_table

_OF_RUN = {
    "running": "is running",
    UNRESPONSIVE: "is unresponsive",
    "stopped": "was stopped",
    "failed": "failed",
    "finished": "is finished",
    "waiting": "waits for its next task",
}


def status_lines(status: RunStatus) -> Iterator[str]:
    """Yield the lines of a status."""
    title = f"run {status.name} {status.run}".replace("  ", " ").rstrip()
    yield f"{title} {_OF_RUN[status.state]}; it is {_clock(status.at)} UTC"
    if status.error:
        yield f"error: {status.error}"
        if status.repair:
            yield f"  repair: {status.repair}"
    yield ""
    yield from _current(status)
    for name, value in _places(status):
        if value:
            yield f"{name:<12}{value}"
    yield ""
    yield from _table(status)
    yield from _section(
        "results", (f"{task.task}: {task.result}" for task in status.tasks if task.result)
    )
    yield from _section("warnings", _warnings(status))
    yield from _section("not available", status.unavailable)


def _current(status: RunStatus) -> Iterator[str]:
    """Yield the lines on the current task."""
    task = status.current
    if task.progress is not None:
        yield f"progress    {_progress(task.progress)}"
        yield from _pace(task.progress, status)
    elif status.state == "running":
        yield f"progress    {task.task} has started"
    if task.job:
        yield f"job         {task.job}"
    if task.heartbeat is not None:
        yield f"heartbeat   {_age(task.heartbeat, status)}"


def _progress(progress: PhaseProgress) -> str:
    share = f" ({progress.done / progress.total:.0%})" if progress.total else ""
    metrics = "".join(f", {name} {value:.4g}" for name, value in progress.metrics.items())
    return f"{progress.phase}: {progress.done} of {progress.total} {progress.unit}{share}{metrics}"


def _pace(progress: PhaseProgress, status: RunStatus) -> Iterator[str]:
    if progress.seconds_each is None or progress.done >= progress.total:
        return
    line = f"            {format_duration(progress.seconds_each)} each"
    if progress.ends is not None and status.state == "running":
        left = (progress.ends - status.at).total_seconds()
        line += f", done in about {format_duration(left)}, at {_clock(progress.ends)}"
    yield line


def _places(status: RunStatus) -> Iterator[tuple[str, str]]:
    if status.checkpoint is not None:
        yield "checkpoint", _checkpoint(status.checkpoint, status)
        yield " ", status.checkpoint.location
    yield "workspace", status.workspace
    yield "MLflow", status.page
    yield "artifacts", status.artifacts
    yield "other runs", ", ".join(status.other_runs)


def _checkpoint(checkpoint: CheckpointStatus, status: RunStatus) -> str:
    update = f"update {checkpoint.update}, " if checkpoint.update is not None else ""
    age = f", {_age(checkpoint.saved, status)}" if checkpoint.saved else ""
    return f"{update}rollout {checkpoint.rollout}{age}, {checkpoint.bytes / 2**20:.1f} MiB"


def _table(status: RunStatus) -> Iterator[str]:
    rows = [("task", "state", "since (UTC)", "took")]
    for task in status.tasks:
        since = "" if task.started is None else _clock(task.started)
        state = task.state if task.has_started else "-"
        rows.append((task.task, state, since, _took(task, status.at)))
    yield from format_table(rows)


def _took(task: TaskStatus, now: datetime) -> str:
    # A process that was killed has recorded no end: its last heartbeat is the closest.
    end = now if task.state == "running" else task.ended or task.heartbeat
    if task.started is None or end is None or end <= task.started:
        return ""
    return format_duration((end - task.started).total_seconds())


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    content = list(lines)
    if content:
        yield ""
        yield title
        yield from (f"  {line}" for line in content)


def _warnings(status: RunStatus) -> Iterator[str]:
    for task in status.tasks:
        for warning in task.warnings:
            title = "ALARM: " if warning.event == "alarm_raised" else ""
            # A warning may have several lines, which would break the list.
            text = re.sub(r"\s*\n\s*", "; ", warning.text)
            yield f"{_clock(warning.at)} {task.task}: {title}{text}"


def _age(moment: datetime, status: RunStatus) -> str:
    return f"{format_duration((status.at - moment).total_seconds())} ago"


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
