"""Uploads of an outbox to MLflow: in order, and each record once."""

import logging
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES, MLFLOW_PARENT_RUN_ID

from advgrpo.telemetry.logging import event
from advgrpo.tracking.connection import (
    FAULTS,
    connect,
    describe_error,
    experiment_id,
    is_missing,
    is_refused,
    log_parameters,
)
from advgrpo.tracking.outbox import Outbox, Pending, Record, outboxes
from advgrpo.tracking.system_metrics import SYSTEM_PREFIX

TASK_TAG = "advgrpo.task"
_TOKEN_TAG = "advgrpo.outbox"
_METRICS_LIMIT = 1000

logger = logging.getLogger("advgrpo")


class Uploader:
    """Sends the records of one outbox.

    Args:
        outbox: The outbox.
        tracking_uri: The MLflow server.
    """

    def __init__(self, outbox: Outbox, tracking_uri: str) -> None:
        self._outbox = outbox
        self._client = connect(tracking_uri)
        # Steps by metric, of a resumed run only.
        self._known_steps: dict[str, set[int]] = {}
        self._resumed = False
        self.run_id: str | None = None

    def send(self, *, wait: bool) -> None:
        """Send the records that MLflow does not have.

        Args:
            wait: Whether to wait for another uploader of the same outbox, or to leave it to that
                one.

        Raises:
            MlflowException: If a request failed and may succeed later.
            RequestException: Likewise.
        """
        with self._outbox.lock(wait=wait) as locked:
            if not locked:
                return
            if self.run_id is None:
                # Find first: an earlier attempt, perhaps on another machine, may have created it.
                self.run_id = self._find_run() or self._create_run()
            for group in _group(self._outbox.pending()):
                self._send_group(group)
                # After each group, so that a retry repeats at most one.
                self._outbox.mark_sent(group[-1].end)
                for item in group:
                    if name := item.record.get("file"):
                        self._outbox.remove_file(name)

    def _send_group(self, group: list[Pending]) -> None:
        try:
            self._post([item.record for item in group])
        except FAULTS as error:
            if not is_refused(error):
                raise
            # Find the refused record of a batch, so that the others are not lost with it.
            if len(group) > 1:
                for item in group:
                    self._send_group([item])
                return
            details = event("mlflow_refused", record=str(group[0].record["kind"]))
            task = self._outbox.key.task
            logger.warning("MLflow refuses a record of %s: %s", task, error, extra=details)
            self._outbox.refuse(group[0].record, str(error))

    def _post(self, records: list[Record]) -> None:
        run_id, first = self._run(), records[0]
        match first["kind"]:
            case "metrics":
                metrics = [metric for record in records for metric in self._metrics(record)]
                # A single record may have more metrics than the limit, which `_group` does not
                # split.
                for start in range(0, len(metrics), _METRICS_LIMIT):
                    batch = metrics[start : start + _METRICS_LIMIT]
                    self._client.log_batch(run_id, metrics=batch)
            case "parameters":
                log_parameters(self._client, run_id, first["values"])
            case "tags":
                self._client.log_batch(run_id, tags=[RunTag(*t) for t in first["values"].items()])
            case "no tag":
                self._delete_tag(first["name"])
            case "picture":
                self._post_picture(first)
            case "artifact":
                for path in self._outbox.file(first["file"]).iterdir():
                    self._client.log_artifact(run_id, str(path), first["under"] or None)
            case "status":
                self._post_status(first)

    def _post_status(self, record: Record) -> None:
        if record["status"] == "RUNNING":
            # A resumed task reopens a run that an earlier attempt ended.
            self._client.update_run(self._run(), status="RUNNING")
        else:
            self._client.set_terminated(self._run(), record["status"], record["timestamp_ms"])

    def _delete_tag(self, name: str) -> None:
        try:
            self._client.delete_tag(self._run(), name)
        except MlflowException as error:
            if not is_missing(error):
                # A repeated request finds the tag deleted.
                raise

    def _post_picture(self, record: Record) -> None:
        # The launcher's image has no Pillow; its tasks record no pictures.
        import PIL.Image  # noqa: PLC0415

        # MLflow's image charts parse this name. A picture that is sent twice, because the first
        # answer or the disk with the outbox was lost, must get the same name.
        name = f"{record['name'].replace('/', '~')}+step+{record['step']}+timestamp+"
        # Derived from the file, so that a retry gets the same name.
        token = uuid.uuid5(uuid.NAMESPACE_URL, record["file"])
        stem = self._known_picture(name) or f"{name}{record['timestamp_ms']}+{token}"
        with (
            tempfile.TemporaryDirectory() as folder,
            PIL.Image.open(self._outbox.file(record["file"])) as picture,
        ):
            full, small = Path(folder, f"{stem}.png"), Path(folder, f"{stem}+compressed.webp")
            picture.save(full)
            compress_image_size(picture).save(small)
            for path in (full, small):
                self._client.log_artifact(self._run(), str(path), "images")
        self._client.set_tag(self._run(), MLFLOW_LOGGED_IMAGES, "true")

    def _known_picture(self, start: str) -> str | None:
        """Return the name that an earlier uploader gave a picture, without its suffixes."""
        files = self._client.list_artifacts(self._run(), "images") if self._resumed else []
        names = [Path(file.path).stem for file in files]
        known = [name.removesuffix("+compressed") for name in names if name.startswith(start)]
        return known[0] if known else None

    def _metrics(self, record: Record) -> Iterator[Metric]:
        for name, value in record["values"].items():
            # A lost outbox or answer means that MLflow may have a step that is not marked as sent.
            # MLflow would store it twice.
            may_repeat = self._resumed and not name.startswith(SYSTEM_PREFIX)
            if not (may_repeat and record["step"] in self._steps_of(name)):
                yield Metric(name, value, record["timestamp_ms"], record["step"])

    def _steps_of(self, name: str) -> set[int]:
        # One request per metric, not per record.
        if name not in self._known_steps:
            history = self._client.get_metric_history(self._run(), name)
            self._known_steps[name] = {metric.step for metric in history}
        return self._known_steps[name]

    def _run(self) -> str:
        assert self.run_id is not None
        return self.run_id

    def _find_run(self) -> str | None:
        runs = self._client.search_runs(
            [self._experiment()],
            " and ".join(f"tags.`{name}` = '{value}'" for name, value in self._identity().items()),
            max_results=1,
        )
        self._resumed = bool(runs)
        return runs[0].info.run_id if runs else None

    def _create_run(self) -> str:
        run = self._client.create_run(
            self._experiment(), tags=self._identity(), run_name=self._outbox.key.task
        )
        return str(run.info.run_id)

    def _identity(self) -> dict[str, str]:
        key = self._outbox.key
        if key.parent_run_id is None:
            return {TASK_TAG: key.task, _TOKEN_TAG: key.token}
        return {TASK_TAG: key.task, MLFLOW_PARENT_RUN_ID: key.parent_run_id}

    def _experiment(self) -> str:
        key = self._outbox.key
        if key.parent_run_id is None:
            return experiment_id(self._client, key.experiment)
        return self._client.get_run(key.parent_run_id).info.experiment_id


def send_outbox(folder: Path, tracking_uri: str) -> None:
    """Send the records of tasks that ran while MLflow was not available.

    Args:
        folder: Folder of the tasks' outboxes.
        tracking_uri: The MLflow server.

    Raises:
        TrackingError: If it is still not available; the records stay.
    """
    try:
        send_all(outboxes(folder), tracking_uri, wait=True)
    except FAULTS as error:
        raise describe_error(error, f"send the records in {folder}", tracking_uri) from error


def send_all(unsent: list[Outbox], tracking_uri: str, *, wait: bool) -> None:
    """Send outboxes, except those of runs on another MLflow server."""
    for outbox in unsent:
        if outbox.all_sent or not outbox.key.may_be_on(tracking_uri):
            continue
        try:
            Uploader(outbox, tracking_uri).send(wait=wait)
        except MlflowException as error:
            # The parent run is on another server, and the outbox cannot be sent to this one.
            if not is_missing(error):
                raise
            logger.info("%s is for another MLflow server", outbox.folder)


def _group(pending: list[Pending]) -> Iterator[list[Pending]]:
    group: list[Pending] = []
    metrics = 0
    for item in pending:
        # Other records are sent alone, in order: parameters before metrics, the status last.
        if item.record["kind"] != "metrics":
            if group:
                yield group
            yield [item]
            group, metrics = [], 0
            continue
        group.append(item)
        metrics += len(item.record["values"])
        if metrics >= _METRICS_LIMIT:
            yield group
            group, metrics = [], 0
    if group:
        yield group
