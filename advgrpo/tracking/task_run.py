"""What a pipeline task records while it runs."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from advgrpo.errors import Preempted, TrackingError
from advgrpo.tracking.address import check_address
from advgrpo.tracking.outbox import Outbox, Record, RunKey
from advgrpo.tracking.parameters import flat
from advgrpo.tracking.system_metrics import SYSTEM_PREFIX, system_metrics

if TYPE_CHECKING:
    from advgrpo.tracking.uploader import BackgroundSender


class TaskRun:
    """What a task records: first on the local disk, from there to MLflow when it is available.

    Args:
        outbox: Where records are kept.
        sender: What sends them; None records metrics locally and nothing else.
    """

    def __init__(self, outbox: Outbox, sender: "BackgroundSender | None") -> None:
        self._outbox = outbox
        self._sender = sender
        self._recorded = {
            (record["kind"], name, record["step"])
            for record in outbox.records()
            for name in _step_names(record)
        }

    @property
    def folder(self) -> Path:
        """Where the records lie, for `metric_curves`."""
        return self._outbox.folder

    def run_id(self, timeout_seconds: float = 30.0) -> str:
        """Give the id of the MLflow run.

        Raises:
            TrackingError: If the task is not tracked, or MLflow does not answer in time.
        """
        found = self._sender.run_id(timeout_seconds) if self._sender else None
        if found is None:
            raise TrackingError(
                f"task {self._outbox.key.task} has no MLflow run",
                repair="check that the MLflow server runs and that MLFLOW_TRACKING_URI names it",
            )
        return found

    def parameters(self, values: Mapping[str, object]) -> None:
        """Record settings; nested ones get names with dots."""
        self._outbox.append("parameters", values=flat(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags."""
        self._outbox.append("tags", values=dict(values))

    def drop_tag(self, name: str) -> None:
        """Record that a tag is no longer so, if an earlier run of the task left it."""
        self._outbox.append("no tag", name=name)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record measures of a step.

        A measure of a step that was recorded, perhaps by an earlier, interrupted run of the task,
        stays as it was.

        Args:
            values: Measures by name.
            step: Which update, or other step, they belong to.
        """
        new = {
            name: float(value)
            for name, value in values.items()
            if ("metrics", name, step) not in self._recorded
        }
        if new:
            self._outbox.append("metrics", step=step, values=new)
            self._recorded |= {("metrics", name, step) for name in new}

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Record a picture of a step, as metrics are recorded.

        Args:
            name: What it shows: letters, digits, spaces and `_-./`.
            step: Which update it belongs to.
            png: The file.
        """
        if self._sender is not None and ("picture", name, step) not in self._recorded:
            file = self._outbox.keep_bytes(png, ".png")
            self._outbox.append("picture", name=name, step=step, file=file)
            self._recorded.add(("picture", name, step))

    def unsent_pictures(self) -> list[tuple[str, int, bytes]]:
        """Give the pictures, by name and step, that MLflow does not have yet."""
        return self._outbox.pending_pictures() if self._sender is not None else []

    def artifact(self, path: Path, under: str = "") -> None:
        """Record a file or folder.

        Args:
            path: What to record; it may be deleted afterwards.
            under: Folder among the run's artifacts.
        """
        if self._sender is not None:
            self._outbox.append("artifact", file=self._outbox.keep_copy(path), under=under)

    def close(self, status: str, timeout_seconds: float) -> None:
        """End the run and send what is left. See `task_run`."""
        self._outbox.append("status", status=status)
        if self._sender is not None:
            self._sender.close(timeout_seconds)


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

    The same task of the same parent always records into the same MLflow run; without a parent each
    run is new. If MLflow is not available the task goes on: records stay in `folder`, and are sent
    when it is available, by the next task that uses the folder, or by `send_outbox`.

    Args:
        task: Name of the pipeline task.
        folder: Where records are kept; tasks and runs may share it.
        parent_run_id: Run to nest in; None makes a run of its own.
        tracking_uri: The MLflow server; None records metrics locally and nothing else.
        experiment: Name of the experiment, if there is no parent.
        close_timeout_seconds: Longest wait for MLflow at the end.

    Raises:
        StorageError: If `folder` cannot be written.
        TrackingError: If `tracking_uri` cannot be understood.
        ConfigError: If it holds a password, or certificates would not be checked.
    """
    if tracking_uri:
        check_address(tracking_uri)
    key = RunKey(task, parent_run_id, experiment, tracking_uri, token=uuid.uuid4().hex)
    outbox = Outbox(folder / key.folder_name, key)
    outbox.repair()
    run = TaskRun(outbox, _sender(outbox, tracking_uri) if tracking_uri else None)
    outbox.append("status", status="RUNNING")
    status = "FAILED"
    try:
        with system_metrics(run.metrics) if tracking_uri else nullcontext():
            yield run
        status = "FINISHED"
    except (Preempted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        run.close(status, close_timeout_seconds)


def _sender(outbox: Outbox, tracking_uri: str) -> "BackgroundSender":
    # MLflow takes seconds to load, which a task without a server need not pay.
    from advgrpo.tracking.uploader import BackgroundSender  # noqa: PLC0415

    return BackgroundSender(outbox, tracking_uri)


def _step_names(record: Record) -> list[str]:
    if record["kind"] == "metrics":
        # What the machine did has steps of its own, so many that they would fill the memory.
        return [name for name in record["values"] if not name.startswith(SYSTEM_PREFIX)]
    return [record["name"]] if record["kind"] == "picture" else []
