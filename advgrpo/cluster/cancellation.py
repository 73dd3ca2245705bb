"""Deletion of a job when its run is cancelled.

A pipeline's container gets SIGTERM if its run is cancelled, but also if its node is drained. Only
the Workflow distinguishes the two, so it is read first. The container is killed within about a
second: KFP's launcher exits at once, and the container with it. Both requests use a connection that
is already open. If the deletion comes too late, the janitor deletes the job.
"""

import logging
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from advgrpo.cluster.api import Api
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.workflow_owner import WorkflowOwner, reason_of_end
from advgrpo.errors import ClusterError, ClusterUnavailableError, Preempted

# The process rarely has more than a second: short pauses, and no backoff.
_ATTEMPTS = 5
_DELAY_SECONDS = 0.2
_TIMEOUT_SECONDS = 2.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)


class CancelOnSignal:
    """Context in which the first SIGTERM or SIGINT raises `Preempted`.

    The job is deleted, unless the signal is a SIGTERM and the Workflow continues: then the pod is
    evicted, and the launcher that replaces this one adopts the job.

    Args:
        api: Client of the API server.
        resource: The job's kind.
        name: The job's name.
        owner: The job's Workflow; None outside of a pipeline.
    """

    def __init__(
        self, api: Api, resource: Resource, name: str, owner: WorkflowOwner | None = None
    ) -> None:
        self.uid = ""
        """The job's uid; empty while it is not known whether the job exists."""

        # Connections of its own: the signal may interrupt a request of the main client.
        self._api = api.with_timeout(_TIMEOUT_SECONDS)
        self._resource = resource
        self._name = name
        self._owner = owner
        self._busy = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        # Python only lets the main thread set signal handlers.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in _SIGNALS}
            for number in _SIGNALS:
                signal.signal(number, self._stop)
        else:
            logger.info("not in the main thread: a signal will not delete the job")
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._api.close()

    def keep_warm(self) -> None:
        """Send a request, so that the connection for deleting stays open."""
        self._busy = True
        try:
            # Any answer keeps the connection open, also that the job does not exist yet.
            with suppress(ClusterError):
                self._api.get(self._resource, self._name, retry=False)
        finally:
            self._busy = False

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        # A second signal must not interrupt the request.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        # The signal may have interrupted a request on this connection: it cannot take another.
        api = self._api.with_timeout(_TIMEOUT_SECONDS) if self._busy else self._api
        if number == signal.SIGTERM and self._is_continued(api):
            raise Preempted(
                f"received SIGTERM, but the run is not cancelled: the job {self._name} continues",
                repair="run the task again, as Kubeflow Pipelines does: it adopts the job",
            )
        deleted = self._delete(api)
        raise Preempted(
            f"received {signal.Signals(number).name}; "
            + (
                f"the job {self._name} is being deleted and saves its state"
                if deleted
                else f"the job {self._name} could not be deleted: the janitor will"
            ),
            repair="run it again to resume from the last checkpoint",
        )

    def _is_continued(self, api: Api) -> bool:
        """Return whether the Workflow continues; False if it cannot be read."""
        if self._owner is None:
            return False
        try:
            return not reason_of_end(api, self._owner, retry=False)
        # Without an answer a cancelled run's GPUs would stay busy until the janitor runs; a job
        # that is deleted by mistake resumes from its last checkpoint.
        except ClusterError:
            return False

    def _delete(self, api: Api) -> bool:
        for _ in range(_ATTEMPTS):
            with suppress(ClusterUnavailableError):
                if api.delete(self._resource, self._name, uid=self.uid, retry=False):
                    return True
                if self.uid:
                    # It is gone, or another job has its name.
                    return True
            # The request that creates the job may still be in flight.
            api.clock.sleep(_DELAY_SECONDS)
        return False
