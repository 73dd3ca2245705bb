"""What a task leaves in the workspace: a folder that is whole or absent, with its measures."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from advgrpo.records import ALARM_METRIC, LIBRARIES, Alarm, TrainingRecord
from advgrpo.storage import join, read_bytes, read_commit, scratch_folder, upload_folder
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.local import disk_errors
from advgrpo.telemetry.logging import machine_event
from advgrpo.tracking import TaskRun

METRICS_FILE = "metrics.json"
LINEAGE_FILE = "lineage.json"
HISTORY_FILE = "history.jsonl"
TOTALS_FILE = "totals.json"

logger = logging.getLogger(__name__)


class ReferenceImageLocations(NamedTuple):
    """Where a run's reference images are."""

    train: str
    test: str


@dataclass(frozen=True)
class TaskResult:
    """Where a task's result is, and what was measured of it."""

    location: str
    metrics: Mapping[str, float]

    def copy(self, target: str | Path, name: str = "") -> None:
        """Copy the result, or one file or folder of it, to a local path.

        Raises:
            StorageError: If it is damaged or cannot be copied.
        """
        source = local_folder(self.location) / name
        with disk_errors("write", str(target)):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)

    def write_metrics(self, path: str) -> dict[str, float]:
        """Write what was measured as JSON, and return it."""
        metrics = dict(self.metrics)
        Path(path).write_text(json.dumps(metrics, indent=1), encoding="utf-8")
        return metrics


def finished_result(location: str) -> TaskResult | None:
    """Find the result of an earlier run of a task; None if it did not come to its end."""
    if read_commit(location) is None:
        return None
    metrics = json.loads(read_bytes(join(location, METRICS_FILE)))
    logger.info("the result is there", extra=machine_event("result_found", place=location))
    return TaskResult(location, metrics)


@contextmanager
def result_folder(location: str) -> Iterator[Path]:
    """Give an empty local folder that becomes the result once the block succeeds.

    Args:
        location: Local path or `s3://` location; what lay there is replaced as a whole.
    """
    with scratch_folder() as folder:
        yield folder
        upload_folder(folder, location)
    logger.info("the result is kept", extra=machine_event("result_saved", place=location))


def library_versions() -> dict[str, str]:
    """Name the versions of what an image depends on, as `version.<library>`."""
    return {f"version.{library}": metadata.version(library) for library in LIBRARIES}


def read_metrics(folder: Path) -> dict[str, float]:
    """Read what was measured from a result's folder."""
    metrics: dict[str, float] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return metrics


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write what was measured into a result's folder."""
    (folder / METRICS_FILE).write_text(json.dumps(dict(metrics), indent=1), encoding="utf-8")


def read_training(folder: Path) -> TrainingRecord:
    """Read from a training's result how it went, and what the watch for hacking found."""
    totals = json.loads((folder / TOTALS_FILE).read_text(encoding="utf-8"))
    alarms = tuple(Alarm(alarm["update"], alarm["reason"]) for alarm in totals["alarms"])
    return TrainingRecord(
        updates=totals.get("updates"),
        alarms=alarms if any(ALARM_METRIC in row for row in read_history(folder)) else None,
        stopped_by_watch=totals["stopped_early"],
    )


def write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """Write measures by step into a result's folder, one step a line."""
    lines = "".join(json.dumps(row) + "\n" for row in history)
    (folder / HISTORY_FILE).write_text(lines, encoding="utf-8")


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read what `write_history` wrote."""
    lines = (folder / HISTORY_FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def record_history(run: TaskRun, location: str, *, step: str) -> None:
    """Record the history of a result; an interrupted run may have recorded none of it, or a part.

    Args:
        run: What a task records.
        location: The result.
        step: Name of the column that numbers the rows.
    """
    for line in read_bytes(join(location, HISTORY_FILE)).splitlines():
        row = json.loads(line)
        number = int(row.pop(step))
        run.metrics(row, step=number)
