"""A loop that reconciles registered models on notification and periodically."""

import logging
import queue

from advgrpo.errors import AdvGrpoError
from advgrpo.registry.champion_changes import Announce
from advgrpo.registry.reconciliation import reconcile
from advgrpo.telemetry.logging import event
from advgrpo.telemetry.prometheus import DECISIONS, LAST_RECONCILIATION, RECONCILIATIONS

logger = logging.getLogger(__name__)


class Reconciler:
    """Reconciles a model when it is notified of it, and all models periodically.

    Args:
        tracking_uri: The MLflow server.
        every_seconds: Interval between two reconciliations of all models.
        announce: Hook for new champions.
    """

    def __init__(
        self, tracking_uri: str, *, every_seconds: float, announce: Announce | None = None
    ) -> None:
        self._tracking_uri, self._every_seconds = tracking_uri, every_seconds
        self._announce = announce
        # Notifications come from the threads of the webhook; None stops the loop.
        self._names: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def notify(self, name: str) -> None:
        """Queue a model."""
        self._names.put(name)

    def stop(self) -> None:
        """Make `run` return after the present reconciliation."""
        self._names.put(None)

    def run(self) -> None:
        """Reconcile until stopped; errors are logged and retried with the next reconciliation."""
        # The first reconciliation covers changes while no receiver was running.
        name: str | None = ""
        while name is not None:
            try:
                decisions = reconcile(self._tracking_uri, name=name, announce=self._announce)
                DECISIONS.inc(len(decisions))
                RECONCILIATIONS.labels("done").inc()
                LAST_RECONCILIATION.set_to_current_time()
            except AdvGrpoError as error:
                RECONCILIATIONS.labels("failed").inc()
                logger.warning("%s", error, extra=event("reconciliation_failed", model=name))
            try:
                name = self._names.get(timeout=self._every_seconds)
            except queue.Empty:
                # Timeout: time for all models.
                name = ""
