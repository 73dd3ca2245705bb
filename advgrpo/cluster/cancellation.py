"""Delete a job when this process is asked to stop.

A pipeline's container lives for a second or less after that: KFP's own launcher ends at once, and
the container with it. So the request to delete is the first and only thing that is done, over a
connection that is open already. When it comes too late, the janitor deletes the job.
"""

import logging
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

from advgrpo.cluster.api import Api
from advgrpo.cluster.resources import Resource
from advgrpo.errors import ClusterError, ClusterUnavailableError, Preempted

_TRIES = 5
_PAUSE_SECONDS = 0.2
_LONGEST_SECONDS = 2.0
"""Time limit of a request; who does not answer by then may answer the next one."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)


class Cancelling:
    """While entered, a first SIGTERM or SIGINT deletes a job and raises `Preempted`.

    Args:
        api: Reaches the API server.
        resource: The job's kind.
        name: The job's name.
    """

    def __init__(self, api: Api, resource: Resource, name: str) -> None:
        self.uid = ""
        """The job's; empty while it is not known whether there is one."""

        self._api = api.apart(longest_seconds=_LONGEST_SECONDS)
        self._resource = resource
        self._name = name
        self._busy = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
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
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._api.close()

    def keep_warm(self) -> None:
        """Use the connection, so that it stays open."""
        self._busy = True
        try:
            with suppress(ClusterError):
                self._api.get(self._resource, self._name, patient=False)
        finally:
            self._busy = False

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        # A connection in use is in the middle of something: take another one.
        api = self._api.apart(longest_seconds=_LONGEST_SECONDS) if self._busy else self._api
        done = self._delete(api)
        raise Preempted(
            f"asked to stop ({signal.Signals(number).name}); "
            + (
                f"the job {self._name} is being deleted and saves its state"
                if done
                else f"the job {self._name} could not be deleted: the janitor will"
            ),
            repair="run it again to go on from the last checkpoint",
        )

    def _delete(self, api: Api) -> bool:
        for _ in range(_TRIES):
            with suppress(ClusterUnavailableError):
                if api.delete(self._resource, self._name, uid=self.uid, patient=False):
                    return True
                if self.uid:
                    # It is gone, or another one has its name.
                    return True
            # It may be that the job is being created at this moment.
            api.clock.sleep(_PAUSE_SECONDS)
        return False
