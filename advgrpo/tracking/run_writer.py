"""Writes of records to an MLflow run."""

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

from advgrpo.tracking.artifacts import artifact_errors, check_location
from advgrpo.tracking.connection import is_missing, log_parameters
from advgrpo.tracking.outbox import Outbox, Record
from advgrpo.tracking.system_metrics import SYSTEM_PREFIX

METRICS_LIMIT = 1000
"""Number of metrics that MLflow accepts in one request."""


class RunWriter:
    """Writes records to one MLflow run.

    Args:
        client: Client of the server.
        tracking_uri: The server.
        outbox: Outbox of the records, which has their files.
        run: The run.
        resumed: Whether the run may have some of the records.
    """

    def __init__(
        self, client: MlflowClient, tracking_uri: str, outbox: Outbox, run: Run, *, resumed: bool
    ) -> None:
        self._client, self._tracking_uri, self._outbox = client, tracking_uri, outbox
        self.run_id = str(run.info.run_id)
        self._artifacts = str(run.info.artifact_uri)
        self._resumed = resumed
        # Steps by metric, of a resumed run only.
        self._known_steps: dict[str, set[int]] = {}

    def write(self, records: Sequence[Record]) -> None:
        """Write one record, or several of metrics."""
        run_id, first = self.run_id, records[0]
        match first["kind"]:
            case "metrics":
                metrics = [metric for record in records for metric in self._metrics(record)]
                # A single record may have more metrics than the limit, which `_group` does not
                # split.
                for start in range(0, len(metrics), METRICS_LIMIT):
                    batch = metrics[start : start + METRICS_LIMIT]
                    self._client.log_batch(run_id, metrics=batch)
            case "parameters":
                log_parameters(self._client, run_id, first["values"])
            case "tags":
                self._client.log_batch(run_id, tags=[RunTag(*t) for t in first["values"].items()])
            case "no tag":
                self._delete_tag(first["name"])
            case "picture" | "artifact":
                self._post_files(first)
            case "status":
                self._post_status(first)

    def _post_files(self, record: Record) -> None:
        check_location(self._artifacts, self._tracking_uri)
        with artifact_errors("write a file", self._artifacts, self._tracking_uri):
            if record["kind"] == "picture":
                self._post_picture(record)
                return
            for path in self._outbox.file(record["file"]).iterdir():
                self._client.log_artifact(self.run_id, str(path), record["under"] or None)

    def _post_status(self, record: Record) -> None:
        if record["status"] == "RUNNING":
            # A resumed task reopens a run that an earlier attempt ended.
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self._client.set_terminated(self.run_id, record["status"], record["timestamp_ms"])

    def _delete_tag(self, name: str) -> None:
        try:
            self._client.delete_tag(self.run_id, name)
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
                self._client.log_artifact(self.run_id, str(path), "images")
        self._client.set_tag(self.run_id, MLFLOW_LOGGED_IMAGES, "true")

    def _known_picture(self, start: str) -> str | None:
        """Return the name that an earlier uploader gave a picture, without its suffixes."""
        files = self._client.list_artifacts(self.run_id, "images") if self._resumed else []
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
            history = self._client.get_metric_history(self.run_id, name)
            self._known_steps[name] = {metric.step for metric in history}
        return self._known_steps[name]
