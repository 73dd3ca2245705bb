"""A run's status, as a person reads it."""

import re
from collections.abc import Iterator
from datetime import datetime

from advgrpo.runtime.run_status import CheckpointStatus, Progress, RunStatus, TaskStatus
from advgrpo.telemetry.formatting import format_duration, format_table

_OF_TASK = {
    "pending": "-",
    "running": "runs",
    "silent": "silent",
    "stopped": "stopped",
    "failed": "failed",
    "finished": "done",
}
_OF_RUN = {
    "running": "runs",
    "silent": "gives no sign of life",
    "stopped": "was stopped",
    "failed": "failed",
    "finished": "is done",
    "waiting": "waits for its next task",
}


def status_lines(status: RunStatus) -> Iterator[str]:
    """Write a status, line by line."""
    named = f"run {status.name} {status.run}".replace("  ", " ").rstrip()
    yield f"{named} {_OF_RUN[status.state]}; it is {_clock(status.asked)} UTC"
    if status.wrong:
        yield f"wrong: {status.wrong}"
        if status.repair:
            yield f"  repair: {status.repair}"
    yield ""
    yield from _now(status)
    for title, value in _places(status):
        if value:
            yield f"{title:<12}{value}"
    yield ""
    yield from _table(status)
    yield from _listed(
        "results", (f"{task.task}: {task.result}" for task in status.tasks if task.result)
    )
    yield from _listed("warnings", _warned(status))
    yield from _listed("not read", status.not_read)


def _now(status: RunStatus) -> Iterator[str]:
    """Say how far the task is that the run is at."""
    task, now = status.current, status.asked
    if status.state in {"finished", "waiting"}:
        return
    if task.progress is not None:
        yield f"progress    {_far(task.progress)}"
        yield from _pace(task.progress, status)
    elif status.state == "running":
        yield f"progress    {task.task} has begun"
    if task.job:
        yield f"job         {task.job}"
    if task.last_sign is not None:
        yield f"last sign   {format_duration((now - task.last_sign).total_seconds())} ago"


def _far(progress: Progress) -> str:
    share = f" ({progress.done / progress.total:.0%})" if progress.total else ""
    figures = "".join(f", {name} {value:.4g}" for name, value in progress.figures.items())
    return f"{progress.phase}: {progress.done} of {progress.total} {progress.unit}{share}{figures}"


def _pace(progress: Progress, status: RunStatus) -> Iterator[str]:
    if progress.seconds_each is None or progress.done >= progress.total:
        return
    words = f"            {format_duration(progress.seconds_each)} each"
    if progress.ends is not None and status.state == "running":
        left = (progress.ends - status.asked).total_seconds()
        words += f", done in about {format_duration(left)}, at {_clock(progress.ends)}"
    yield words


def _places(status: RunStatus) -> Iterator[tuple[str, str]]:
    if status.checkpoint is not None:
        yield "checkpoint", _saved(status.checkpoint, status.asked)
        yield " ", status.checkpoint.location
    yield "workspace", status.workspace
    yield "MLflow", status.page
    yield "artifacts", status.artifacts
    yield "other runs", ", ".join(status.others)


def _saved(checkpoint: CheckpointStatus, now: datetime) -> str:
    update = f"update {checkpoint.update}, " if checkpoint.update is not None else ""
    age = ""
    if checkpoint.saved:
        age = f", {format_duration((now - checkpoint.saved).total_seconds())} ago"
    return f"{update}turn {checkpoint.turn}{age}, {checkpoint.bytes / 2**20:.1f} MiB"


def _table(status: RunStatus) -> Iterator[str]:
    rows = [("task", "state", "since (UTC)", "took")]
    for task in status.tasks:
        since = "" if task.started is None else _clock(task.started)
        rows.append((task.task, _OF_TASK[task.state], since, _took(task, status.asked)))
    yield from format_table(rows)


def _took(task: TaskStatus, now: datetime) -> str:
    end = now if task.state == "running" else task.ended or task.last_sign
    if task.started is None or end is None or end <= task.started:
        return ""
    return format_duration((end - task.started).total_seconds())


def _listed(title: str, lines: Iterator[str] | tuple[str, ...]) -> Iterator[str]:
    listed = list(lines)
    if listed:
        yield ""
        yield title
        yield from (f"  {line}" for line in listed)


def _warned(status: RunStatus) -> Iterator[str]:
    for task in status.tasks:
        for one in task.warnings:
            title = "ALARM: " if one.event == "alarm_raised" else ""
            said = re.sub(r"\s*\n\s*", "; ", one.text)
            yield f"{_clock(one.at)} {task.task}: {title}{said}"


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
