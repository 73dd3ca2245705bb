"""Results of tasks: folders of the workspace, written whole or not at all, with their metrics."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from advgrpo.records import ALARM_METRIC, LIBRARIES, Alarm, TrainingRecord
from advgrpo.storage.cache import scratch_folder
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.files import read_bytes
from advgrpo.storage.folders import read_commit, upload_folder
from advgrpo.storage.local import disk_errors
from advgrpo.storage.locations import join
from advgrpo.strict_json import load_json
from advgrpo.telemetry.logging import machine_event
from advgrpo.tracking.task_run import TaskRun

METRICS_FILE = "metrics.json"
LINEAGE_FILE = "lineage.json"
HISTORY_FILE = "history.jsonl"
TOTALS_FILE = "totals.json"

logger = logging.getLogger(__name__)


class ReferenceImageLocations(NamedTuple):
    """Locations of a run's reference image sets."""

    train: str
    test: str


@dataclass(frozen=True)
class TaskResult:
    """Location and metrics of a task's result."""

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
        """Write the metrics as JSON, and return them."""
        metrics = dict(self.metrics)
        Path(path).write_text(json.dumps(metrics, indent=1), encoding="utf-8")
        return metrics


@runtime_checkable
class Artifact(Protocol):
    """The part of `kfp.dsl.Artifact` that a task's output needs."""

    uri: str
    metadata: dict[str, str]

    @property
    def path(self) -> str:
        """Local path, whose content Kubeflow uploads to the URI."""


def refer(artifact: Artifact, location: str, **metadata: str) -> None:
    """Make an output artifact of Kubeflow Pipelines stand for a folder of the workspace.

    On a cluster, its file contains the location alone and its URI stays as it is: Kubeflow fails a
    task whose artifacts have a URI outside of the run's own folder, uploads what lies at their
    path, and downloads every input before a task starts.

    Args:
        artifact: The artifact, which is changed in place.
        location: The folder; `located` returns it to the tasks that take the artifact.
        metadata: What else its page in the UI shows.
    """
    Path(artifact.path).write_text(location, encoding="utf-8")
    artifact.metadata.update(location=location, **metadata)
    # Without a scheme it is a path of a local run, where Kubeflow neither uploads nor downloads.
    if "://" not in artifact.uri:
        artifact.uri = location


def located(artifact: Artifact) -> str:
    """Return the location that an artifact stands for."""
    return artifact.metadata["location"]


def find_result(location: str) -> TaskResult | None:
    """Return the result of an earlier run of a task; None if it did not finish."""
    # The commit file is written last: a folder without one is incomplete.
    if read_commit(location) is None:
        return None
    metrics = load_json(read_bytes(join(location, METRICS_FILE)))
    logger.info("the result exists", extra=machine_event("result_found", place=location))
    return TaskResult(location, metrics)


@contextmanager
def result_folder(location: str) -> Iterator[Path]:
    """Yield an empty local folder that becomes the result once the block succeeds.

    Args:
        location: Local path or `s3://` location; an earlier result is replaced as a whole.
    """
    with scratch_folder() as folder:
        yield folder
        upload_folder(folder, location)
    logger.info("the result is saved", extra=machine_event("result_saved", place=location))


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that images depend on, as `version.<library>`."""
    return {f"version.{library}": metadata.version(library) for library in LIBRARIES}


def read_metrics(folder: Path) -> dict[str, float]:
    """Read the metrics in a result's folder."""
    metrics: dict[str, float] = load_json((folder / METRICS_FILE).read_text(encoding="utf-8"))
    return metrics


def write_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Write the metrics into a result's folder."""
    (folder / METRICS_FILE).write_text(json.dumps(dict(metrics), indent=1), encoding="utf-8")


def read_training(folder: Path) -> TrainingRecord:
    """Read the course of a training and its reward hacking alarms from its result."""
    totals = load_json((folder / TOTALS_FILE).read_text(encoding="utf-8"))
    # Without the watch, no row has the metric: then None, which says that nothing was checked.
    alarms = tuple(Alarm(alarm["update"], alarm["reason"]) for alarm in totals["alarms"])
    return TrainingRecord(
        updates=totals.get("updates"),
        alarms=alarms if any(ALARM_METRIC in row for row in read_history(folder)) else None,
        stopped_by_watch=totals["stopped_early"],
    )


def write_history(folder: Path, history: list[dict[str, float]]) -> None:
    """Write the metrics of each step into a result's folder, one step a line."""
    lines = "".join(json.dumps(row) + "\n" for row in history)
    (folder / HISTORY_FILE).write_text(lines, encoding="utf-8")


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read the history that `write_history` wrote."""
    lines = (folder / HISTORY_FILE).read_text(encoding="utf-8").splitlines()
    return [load_json(line) for line in lines]


def record_history(run: TaskRun, location: str, *, step: str) -> None:
    """Record the history of a result in MLflow.

    Args:
        run: Run of the task.
        location: The result.
        step: Name of the column that numbers the rows.
    """
    # Called for a finished result too: the attempt that made it may have ended before recording.
    for line in read_bytes(join(location, HISTORY_FILE)).splitlines():
        row = load_json(line)
        number = int(row.pop(step))
        run.metrics(row, step=number)
