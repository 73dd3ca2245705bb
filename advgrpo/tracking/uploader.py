"""Uploads of an outbox to MLflow: in order, and each record once."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from advgrpo.errors import TrackingError
from advgrpo.telemetry.kfp_plugin import plugin_run
from advgrpo.telemetry.logging import event
from advgrpo.tracking.connection import (
    FAULTS,
    connect,
    describe_error,
    experiment_id,
    is_bad_request,
    is_missing,
    is_refused,
    may_fail_alone,
)
from advgrpo.tracking.outbox import Outbox, Pending, Record, outboxes
from advgrpo.tracking.run_writer import METRICS_LIMIT, RunWriter

TASK_TAG = "advgrpo.task"
_TOKEN_TAG = "advgrpo.outbox"
# Attempts at a record that fails while the server answers other requests.
_ATTEMPTS = 3
_DEFERRED_SECONDS = 300.0

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
        self._tracking_uri = tracking_uri
        self._failures: tuple[int, int] = (0, 0)
        self._retry_deferred_at = 0.0
        self._writer: RunWriter | None = None

    @property
    def run_id(self) -> str | None:
        """Id of the run; None until it is found or created."""
        return self._writer.run_id if self._writer else None

    def send(self, *, wait: bool, last: bool = True) -> None:
        """Send the records that MLflow does not have.

        A file that the artifact store does not accept is sent later; other records do not wait.

        Args:
            wait: Whether to wait for another uploader of the same outbox, or to leave it to that
                one.
            last: Whether to try such files now; if not, they are tried every few minutes.

        Raises:
            MlflowException: If a request failed and may succeed later.
            RequestException: Likewise.
        """
        with self._outbox.lock(wait=wait) as locked:
            if not locked:
                return
            if self._writer is None:
                # Find first: an earlier attempt, perhaps on another machine, may have created it.
                found = self._find_run()
                run = found or self._adopt_run() or self._create_run()
                self._writer = RunWriter(
                    self._client, self._tracking_uri, self._outbox, run, resumed=found is not None
                )
            for group in _group(self._outbox.pending()):
                self._send_group(self._writer, group)
            self._send_deferred(self._writer, now=last)

    def _send_group(self, run: RunWriter, group: list[Pending], *, split: bool = False) -> None:
        first, done = group[0].record, True
        try:
            run.write([item.record for item in group])
        # An artifact store has exceptions of its own.
        except Exception as error:
            if "file" in first and not is_bad_request(error):
                # While the server itself does not answer, all records wait, in their order.
                if not self._answers(run):
                    raise
                self._defer(first, error)
                done = False
            elif not self._fails_alone(run, error, group[0].end, split=split):
                raise
            elif len(group) > 1:
                # Find the refused record of a batch, so that the others are not lost with it.
                for item in group:
                    self._send_group(run, [item], split=True)
                return
            else:
                self._refuse(first, error)
        # After each group, so that a retry repeats at most one.
        self._outbox.mark_sent(group[-1].end)
        if done:
            self._remove_file(first)

    def _fails_alone(self, run: RunWriter, error: Exception, end: int, *, split: bool) -> bool:
        """Return whether only this record fails, for ever; others must not wait for it."""
        if not isinstance(error, FAULTS) or is_refused(error):
            return isinstance(error, FAULTS)
        if not may_fail_alone(error):
            return False
        # Not at the first failure, which may be a passing one: of a locked database for instance.
        count = self._failures[1] + 1 if self._failures[0] == end else 1
        self._failures = (end, count)
        return (split or count >= _ATTEMPTS) and self._answers(run)

    def _answers(self, run: RunWriter) -> bool:
        try:
            self._client.get_run(run.run_id)
        except FAULTS:
            return False
        return True

    def _defer(self, record: Record, error: Exception) -> None:
        if not self._outbox.deferred():
            logger.warning(
                "MLflow's artifact store does not accept a file of %s; it is sent later: %s",
                self._outbox.key.task,
                error,
                extra=event("mlflow_artifact_deferred"),
            )
            self._retry_deferred_at = time.monotonic() + _DEFERRED_SECONDS
        self._outbox.keep_deferred([*self._outbox.deferred(), (record, str(error))])

    def _send_deferred(self, run: RunWriter, *, now: bool) -> None:
        deferred = self._outbox.deferred()
        # Rarely: a large file that a proxy refuses would be transferred each time.
        if not deferred or not (now or time.monotonic() >= self._retry_deferred_at):
            return
        self._retry_deferred_at = time.monotonic() + _DEFERRED_SECONDS
        remaining: list[tuple[Record, str]] = []
        for record, _ in deferred:
            try:
                run.write([record])
            except Exception as error:  # noqa: BLE001 - as above
                if is_bad_request(error):
                    self._refuse(record, error)
                else:
                    remaining.append((record, str(error)))
        self._outbox.keep_deferred(remaining)
        for record, _ in deferred:
            if record not in [kept for kept, _ in remaining]:
                self._remove_file(record)

    def _refuse(self, record: Record, error: Exception) -> None:
        details = event("mlflow_refused", record=str(record["kind"]))
        task = self._outbox.key.task
        logger.warning("MLflow refuses a record of %s: %s", task, error, extra=details)
        self._outbox.refuse(record, str(error))

    def _remove_file(self, record: Record) -> None:
        if name := record.get("file"):
            self._outbox.remove_file(name)

    def _find_run(self) -> Run | None:
        runs = self._client.search_runs(
            [self._experiment()],
            " and ".join(f"tags.`{name}` = '{value}'" for name, value in self._identity().items()),
            max_results=1,
        )
        return runs[0] if runs else None

    def _adopt_run(self) -> Run | None:
        """Return the run that Kubeflow's MLflow plugin opened for this task; None without one."""
        if not (run_id := plugin_run()):
            return None
        tags = self._client.get_run(run_id).data.tags
        # Another run, if this outbox was left by an earlier task.
        if tags.get(MLFLOW_PARENT_RUN_ID) != self._outbox.key.parent_run_id or TASK_TAG in tags:
            return None
        self._client.set_tag(run_id, TASK_TAG, self._outbox.key.task)
        return self._client.get_run(run_id)

    def _create_run(self) -> Run:
        return self._client.create_run(
            self._experiment(), tags=self._identity(), run_name=self._outbox.key.task
        )

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
        TrackingError: If it or its artifact store is still not available; the records stay.
    """
    try:
        send_all(outboxes(folder), tracking_uri, wait=True)
    except FAULTS as error:
        raise describe_error(error, f"send the records in {folder}", tracking_uri) from error
    deferred = [
        reason
        for outbox in outboxes(folder)
        if outbox.key.may_be_on(tracking_uri)
        for _, reason in outbox.deferred()
    ]
    if deferred:
        raise TrackingError(
            f"MLflow's artifact store does not accept {len(deferred)} files in {folder}: "
            f"{deferred[-1]}",
            repair="repair the store or its credentials, then run `advgrpo tracking send`",
        )


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
        if metrics >= METRICS_LIMIT:
            yield group
            group, metrics = [], 0
    if group:
        yield group
