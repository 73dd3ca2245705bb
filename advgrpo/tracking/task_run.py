"""Recording of a pipeline task: metrics, parameters, tags, pictures and artifacts."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from advgrpo.errors import Preempted, TrackingError
from advgrpo.tracking.address import check_address
from advgrpo.tracking.outbox import Outbox, Record, RunKey
from advgrpo.tracking.parameters import flatten
from advgrpo.tracking.system_metrics import SYSTEM_PREFIX, system_metrics

if TYPE_CHECKING:
    from advgrpo.tracking.background_uploader import BackgroundUploader


class TaskRun:
    """The records of a task: on the local disk first, then in MLflow when it is available.

    Args:
        outbox: Storage of the records.
        uploader: Sends them; None records metrics locally and nothing else.
    """

    def __init__(self, outbox: Outbox, uploader: "BackgroundUploader | None") -> None:
        self._outbox = outbox
        self._uploader = uploader
        # From the disk, so that a resumed task does not repeat steps before its checkpoint.
        self._recorded = {
            (record["kind"], name, record["step"])
            for record in outbox.records()
            for name in _step_names(record)
        }

    @property
    def folder(self) -> Path:
        """Folder of the records, for `metric_curves`."""
        return self._outbox.folder

    def run_id(self, timeout_seconds: float = 30.0) -> str:
        """Return the id of the MLflow run.

        Raises:
            TrackingError: If the task is not tracked, or MLflow does not answer in time.
        """
        run_id = self._uploader.run_id(timeout_seconds) if self._uploader else None
        if run_id is None:
            raise TrackingError(
                f"task {self._outbox.key.task} has no MLflow run",
                repair="check that the MLflow server runs, and that MLFLOW_TRACKING_URI is right",
            )
        return run_id

    def parameters(self, values: Mapping[str, object]) -> None:
        """Record settings; nested ones get dotted names."""
        self._outbox.append("parameters", values=flatten(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        self._outbox.append("tags", values=dict(values))

    def drop_tag(self, name: str) -> None:
        """Record the removal of a tag that an earlier run of the task may have set."""
        self._outbox.append("no tag", name=name)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record the metrics of a step.

        A metric that was already recorded for the step, for instance by an interrupted run of the
        task, is not changed.

        Args:
            values: Metrics by name.
            step: Update or other step.
        """
        new = {
            name: float(value)
            for name, value in values.items()
            if ("metrics", name, step) not in self._recorded
        }
        if new:
            self._outbox.append("metrics", step=step, values=new)
            # After the append, so that a failed one can be repeated.
            self._recorded |= {("metrics", name, step) for name in new}

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Record a picture of a step, like a metric.

        Args:
            name: Letters, digits, spaces and `_-./`.
            step: Update.
            png: Content of the PNG file.
        """
        # Without a server, pictures would only fill the disk.
        if self._uploader is not None and ("picture", name, step) not in self._recorded:
            file = self._outbox.add_bytes(png, ".png")
            # After the file, which the background uploader may send at once.
            self._outbox.append("picture", name=name, step=step, file=file)
            self._recorded.add(("picture", name, step))

    def unsent_pictures(self) -> list[tuple[str, int, bytes]]:
        """Return the pictures, with name and step, that are not in MLflow yet."""
        return self._outbox.pending_pictures() if self._uploader is not None else []

    def artifact(self, path: Path, under: str = "") -> None:
        """Record a file or folder.

        Args:
            path: File or folder, which is copied.
            under: Folder in the run's artifacts.
        """
        if self._uploader is not None:
            self._outbox.append("artifact", file=self._outbox.add_copy(path), under=under)

    def close(self, status: str, timeout_seconds: float) -> None:
        """End the run and send the remaining records; see `task_run`."""
        self._outbox.append("status", status=status)
        if self._uploader is not None:
            self._uploader.close(timeout_seconds)


@contextmanager
def task_run(
    task: str,
    *,
    folder: Path,
    parent_run_id: str | None = None,
    tracking_uri: str | None = None,
    experiment: str = "advgrpo",
    close_timeout_seconds: float = 30.0,
) -> Iterator[TaskRun]:
    """Record a task; its MLflow run ends with the block.

    The same task of the same parent always uses the same MLflow run; without a parent each run is
    new. If MLflow is not available, the task continues: records stay in `folder`, and are sent
    later by this task, by the next task that uses the folder, or by `send_outbox`.

    Args:
        task: Name of the pipeline task.
        folder: Storage of the records; tasks and runs may share it.
        parent_run_id: Parent of the MLflow run; None creates a run without one.
        tracking_uri: The MLflow server; None records metrics locally and nothing else.
        experiment: Name of the experiment, if there is no parent.
        close_timeout_seconds: Timeout of sending the last records.

    Raises:
        StorageError: If `folder` cannot be written.
        TrackingError: If `tracking_uri` is not valid.
        ConfigError: If it contains a password, or certificates would not be verified.
    """
    if tracking_uri:
        check_address(tracking_uri)
    key = RunKey(task, parent_run_id, experiment, tracking_uri, token=uuid.uuid4().hex)
    outbox = Outbox(folder / key.folder_name, key)
    # An earlier attempt may have been killed while it wrote.
    outbox.repair()
    run = TaskRun(outbox, _start_uploader(outbox, tracking_uri) if tracking_uri else None)
    # Reopens the run in MLflow if an earlier attempt ended it.
    outbox.append("status", status="RUNNING")
    # Every exception but those below leaves the run as failed.
    status = "FAILED"
    try:
        with system_metrics(run.metrics) if tracking_uri else nullcontext():
            yield run
        status = "FINISHED"
    # MLflow shows these as stopped rather than failed; the task may be resumed.
    except (Preempted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        run.close(status, close_timeout_seconds)


def _start_uploader(outbox: Outbox, tracking_uri: str) -> "BackgroundUploader":
    # Importing MLflow takes seconds, which a task without a server need not pay.
    from advgrpo.tracking.background_uploader import BackgroundUploader  # noqa: PLC0415

    return BackgroundUploader(outbox, tracking_uri)


def _step_names(record: Record) -> list[str]:
    if record["kind"] == "metrics":
        # System metrics never repeat a step, and would fill the memory.
        return [name for name in record["values"] if not name.startswith(SYSTEM_PREFIX)]
    return [record["name"]] if record["kind"] == "picture" else []
