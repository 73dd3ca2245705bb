"""Send records to MLflow: in order, each once, and whenever MLflow is there to take them."""

import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES, MLFLOW_PARENT_RUN_ID

from advgrpo.errors import AdvGrpoError
from advgrpo.telemetry.logging import event
from advgrpo.tracking.connection import (
    FAULTS,
    connect,
    experiment_id,
    explained,
    log_parameters,
    misses,
    refuses,
)
from advgrpo.tracking.outbox import Outbox, Pending, Record, outboxes
from advgrpo.tracking.system_metrics import SYSTEM_PREFIX

TASK_TAG = "advgrpo.task"
_TOKEN_TAG = "advgrpo.outbox"
_METRICS_LIMIT = 1000
_LONGEST_WAIT_SECONDS = 60.0

logger = logging.getLogger("advgrpo")


class Sender:
    """Sends the records of one outbox.

    Args:
        outbox: What to send.
        tracking_uri: Where to.
    """

    def __init__(self, outbox: Outbox, tracking_uri: str) -> None:
        self._outbox = outbox
        self._client = connect(tracking_uri)
        self._known_steps: dict[str, set[int]] = {}
        self._found = False
        self.run_id: str | None = None

    def send(self, *, wait: bool) -> None:
        """Send what MLflow does not have.

        Args:
            wait: Whether to wait for another sender of the same outbox, or to leave it to that one.

        Raises:
            MlflowException: If MLflow did not take a record, and may later.
            RequestException: Likewise.
        """
        with self._outbox.sole_sender(wait=wait) as sole:
            if not sole:
                return
            if self.run_id is None:
                self.run_id = self._find_run() or self._create_run()
            for group in _grouped(self._outbox.pending()):
                self._send_group(group)
                self._outbox.mark_sent(group[-1].end)
                for item in group:
                    if name := item.record.get("file"):
                        self._outbox.forget(name)

    def _send_group(self, group: list[Pending]) -> None:
        try:
            self._post([item.record for item in group])
        except FAULTS as error:
            if not refuses(error):
                raise
            if len(group) > 1:
                for item in group:
                    self._send_group([item])
                return
            note = event("mlflow_refused", record=str(group[0].record["kind"]))
            task = self._outbox.key.task
            logger.warning("MLflow refuses a record of %s: %s", task, error, extra=note)
            self._outbox.refuse(group[0].record, str(error))

    def _post(self, records: list[Record]) -> None:
        run_id, first = self._run(), records[0]
        match first["kind"]:
            case "metrics":
                metrics = [metric for record in records for metric in self._metrics(record)]
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
            self._client.update_run(self._run(), status="RUNNING")
        else:
            self._client.set_terminated(self._run(), record["status"], record["timestamp_ms"])

    def _delete_tag(self, name: str) -> None:
        try:
            self._client.delete_tag(self._run(), name)
        except MlflowException as error:
            if not misses(error):
                raise

    def _post_picture(self, record: Record) -> None:
        # Here and not above: what starts jobs has no Pillow, and no pictures either.
        import PIL.Image  # noqa: PLC0415

        # The names by which MLflow's image charts find pictures. A picture that is sent twice,
        # because the first answer was lost or the machine with the records, must not get two.
        name = f"{record['name'].replace('/', '~')}+step+{record['step']}+timestamp+"
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
        """Find the name that an earlier sender gave a picture, without what follows it."""
        files = self._client.list_artifacts(self._run(), "images") if self._found else []
        names = [Path(file.path).stem for file in files]
        known = [name.removesuffix("+compressed") for name in names if name.startswith(start)]
        return known[0] if known else None

    def _metrics(self, record: Record) -> Iterator[Metric]:
        for name, value in record["values"].items():
            again = self._found and not name.startswith(SYSTEM_PREFIX)
            if not (again and record["step"] in self._steps_of(name)):
                yield Metric(name, value, record["timestamp_ms"], record["step"])

    def _steps_of(self, name: str) -> set[int]:
        if name not in self._known_steps:
            history = self._client.get_metric_history(self._run(), name)
            self._known_steps[name] = {metric.step for metric in history}
        return self._known_steps[name]

    def _run(self) -> str:
        assert self.run_id is not None
        return self.run_id

    def _find_run(self) -> str | None:
        found = self._client.search_runs(
            [self._experiment()],
            " and ".join(f"tags.`{name}` = '{value}'" for name, value in self._identity().items()),
            max_results=1,
        )
        self._found = bool(found)
        return found[0].info.run_id if found else None

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


class BackgroundSender:
    """Sends an outbox, and what other tasks left beside it, in a thread of its own.

    Args:
        outbox: What to send.
        tracking_uri: Where to.
        seconds_between: Time between two looks at the outbox; after a failure it doubles.
    """

    def __init__(self, outbox: Outbox, tracking_uri: str, *, seconds_between: float = 2.0) -> None:
        self._outbox = outbox
        self._tracking_uri = tracking_uri
        self._sender = Sender(outbox, tracking_uri)
        self._seconds_between = seconds_between
        self._deadline: float | None = None
        self._wake = threading.Event()
        self._run_known = threading.Event()
        self._others_tried = False
        self._failing = False
        # A daemon: a request that hangs must not keep the task from ending.
        self._thread = threading.Thread(target=self._loop, name="advgrpo-tracking", daemon=True)
        self._thread.start()

    def run_id(self, timeout_seconds: float) -> str | None:
        """Wait until MLflow has given the run an id; None if it does not in time."""
        self._run_known.wait(timeout_seconds)
        return self._sender.run_id

    def close(self, timeout_seconds: float) -> None:
        """Send what is left, but try no longer than `timeout_seconds`."""
        self._deadline = time.monotonic() + timeout_seconds
        self._wake.set()
        self._thread.join(timeout_seconds)
        if not self._outbox.all_sent:
            logger.warning(
                "MLflow has not taken all records of %s; the rest is kept in %s",
                self._outbox.key.task,
                self._outbox.folder,
            )

    def _loop(self) -> None:
        wait = self._seconds_between
        while True:
            sent = self._send()
            if self._deadline is None:
                wait = self._seconds_between if sent else min(2 * wait, _LONGEST_WAIT_SECONDS)
                self._wake.wait(wait)
            elif (sent and self._outbox.all_sent) or time.monotonic() > self._deadline:
                return
            else:
                time.sleep(self._seconds_between / 4)

    def _send(self) -> bool:
        try:
            self._sender.send(wait=False)
            if self._sender.run_id is not None:
                self._run_known.set()
            if not self._others_tried:
                self._others_tried = True
                # Its own by the sender that knows what it has sent.
                folder = self._outbox.folder
                others = [o for o in outboxes(folder.parent) if o.folder != folder]
                _send_all(others, self._tracking_uri, wait=False)
        except (*FAULTS, AdvGrpoError) as error:
            if not self._failing:
                note = event("mlflow_unavailable")
                logger.warning(
                    "MLflow is not available, records are kept for later: %s", error, extra=note
                )
            self._failing = True
            return False
        if self._failing:
            logger.info("MLflow is available again", extra=event("mlflow_available"))
        self._failing = False
        return True


def send_outbox(folder: Path, tracking_uri: str) -> None:
    """Send what tasks recorded while MLflow was not available.

    Args:
        folder: The folder that the tasks shared.
        tracking_uri: The MLflow server.

    Raises:
        TrackingError: If it is still not available; nothing is lost.
    """
    try:
        _send_all(outboxes(folder), tracking_uri, wait=True)
    except FAULTS as error:
        raise explained(error, f"send the records in {folder}", tracking_uri) from error


def _send_all(found: list[Outbox], tracking_uri: str, *, wait: bool) -> None:
    for outbox in found:
        if outbox.all_sent or not outbox.key.may_go_to(tracking_uri):
            continue
        try:
            Sender(outbox, tracking_uri).send(wait=wait)
        except MlflowException as error:
            if not misses(error):
                raise
            logger.info("%s is for another MLflow server", outbox.folder)


def _grouped(pending: list[Pending]) -> Iterator[list[Pending]]:
    group: list[Pending] = []
    metrics = 0
    for item in pending:
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
