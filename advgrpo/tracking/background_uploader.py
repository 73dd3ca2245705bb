"""Uploads to MLflow in the background of a task."""

import logging
import threading
import time

from advgrpo.telemetry.logging import event
from advgrpo.tracking.outbox import Outbox, outboxes
from advgrpo.tracking.uploader import Uploader, send_all

_MAX_INTERVAL_SECONDS = 60.0

logger = logging.getLogger("advgrpo")


class BackgroundUploader:
    """A thread that sends an outbox, and once the other outboxes in the same folder.

    Args:
        outbox: The outbox.
        tracking_uri: The MLflow server.
        interval_seconds: Interval between two attempts; doubled after each failure.
    """

    def __init__(self, outbox: Outbox, tracking_uri: str, *, interval_seconds: float = 2.0) -> None:
        self._outbox = outbox
        self._tracking_uri = tracking_uri
        self._uploader = Uploader(outbox, tracking_uri)
        self._interval_seconds = interval_seconds
        self._deadline: float | None = None
        self._wake = threading.Event()
        self._run_known = threading.Event()
        self._others_attempted = False
        self._failing = False
        # A daemon, so that a hanging request does not keep the process alive.
        self._thread = threading.Thread(target=self._loop, name="advgrpo-tracking", daemon=True)
        self._thread.start()

    def run_id(self, timeout_seconds: float) -> str | None:
        """Wait for the id of the run; None after the timeout."""
        self._run_known.wait(timeout_seconds)
        return self._uploader.run_id

    def close(self, timeout_seconds: float) -> None:
        """Send the remaining records, but give up after `timeout_seconds`."""
        self._deadline = time.monotonic() + timeout_seconds
        self._wake.set()
        # A request may take longer than the timeout; the thread is abandoned then.
        self._thread.join(timeout_seconds)
        if not self._outbox.all_sent:
            logger.warning(
                "not all records of %s were sent to MLflow; the rest stays in %s",
                self._outbox.key.task,
                self._outbox.folder,
            )

    def _loop(self) -> None:
        wait = self._interval_seconds
        while True:
            sent = self._send()
            if self._deadline is None:
                # Back off, so that an overloaded server can recover.
                wait = self._interval_seconds if sent else min(2 * wait, _MAX_INTERVAL_SECONDS)
                self._wake.wait(wait)
            # The status record is the last one, so all read means that the run has ended.
            elif (sent and self._outbox.all_read) or time.monotonic() > self._deadline:
                return
            else:
                time.sleep(self._interval_seconds / 4)

    def _send(self) -> bool:
        try:
            try:
                # Without waiting: `send_outbox` in another process may hold the lock for long.
                self._uploader.send(wait=False, last=self._deadline is not None)
            finally:
                # The run exists before its first record is accepted.
                if self._uploader.run_id is not None:
                    self._run_known.set()
            if not self._others_attempted:
                # Before the attempt, so that another run's outbox cannot block this one by failing
                # each time.
                self._others_attempted = True
                # Not its own: its uploader knows which steps MLflow has.
                folder = self._outbox.folder
                others = [o for o in outboxes(folder.parent) if o.folder != folder]
                send_all(others, self._tracking_uri, wait=False)
        # Whatever it is: without this thread the run would stay as it is, and its task running.
        except Exception as error:  # noqa: BLE001
            # One warning per outage, not one per attempt.
            if not self._failing:
                logger.warning(
                    "MLflow is not available, records are sent later: %s",
                    error,
                    extra=event("mlflow_unavailable"),
                )
            self._failing = True
            return False
        if self._failing:
            logger.info("MLflow is available again", extra=event("mlflow_available"))
        self._failing = False
        return True
