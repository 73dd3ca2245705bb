"""A thread that reports a run without progress and ends one that hangs."""

import faulthandler
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

from advgrpo.config.training import HangsConfig
from advgrpo.runtime.rank_status import RankMonitor
from advgrpo.telemetry.logging import event

_POLLS_BEFORE_REPORT = 4

# A rank that waits in a collective call gets the library's own timeout error after
# `timeout_seconds`. It is the better message, so the watchdog leaves it a little more time.
_GRACE = 1.1

logger = logging.getLogger("advgrpo")


class Watchdog:
    """Watches the progress of this process within its block.

    Args:
        monitor: The status of this rank.
        config: Seconds without progress until a report and until the end.
        give_up: Ends the process; gets the reason. It is called in the watchdog's thread, because
            the main thread may never return from a collective call.
        stacks: File for the stacks of all threads; it must have a file descriptor.
    """

    def __init__(
        self,
        monitor: RankMonitor,
        config: HangsConfig,
        *,
        give_up: Callable[[str], None],
        stacks: IO[str] | None = None,
    ) -> None:
        self._monitor, self._config, self._give_up = monitor, config, give_up
        self._stacks = stacks
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        # The time since the monitor was created does not count.
        self._monitor.beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        config, reported = self._config, False
        poll = min(10.0, config.report_after_seconds / _POLLS_BEFORE_REPORT)
        while not self._ended.wait(poll):
            idle = self._monitor.status.idle_seconds
            try:
                # On every poll, not only when idle: the other ranks describe a rank that died by
                # its last status.
                self._monitor.publish()
                if idle < config.report_after_seconds:
                    reported = False
                elif not reported:
                    reported = True
                    self._report(idle)
                ranks = self._monitor.describe() if reported else ""
            except RuntimeError as error:
                # The store is a server in one of the ranks, perhaps in the one that died.
                ranks = f"the status of the other ranks is not available: {error}"
            if idle >= _GRACE * config.timeout_seconds:
                self._give_up(
                    f"no progress for {idle:.0f} s "
                    f"(training.hangs.timeout_seconds={config.timeout_seconds}): "
                    f"{ranks}"
                )
                return

    def _report(self, idle: float) -> None:
        fields = event("no_progress", seconds=round(idle, 1))
        logger.warning("no progress for %.0f s: %s", idle, self._monitor.describe(), extra=fields)
        # faulthandler writes from C: it also shows a thread that holds the GIL.
        faulthandler.dump_traceback(file=self._stacks or sys.stderr, all_threads=True)
