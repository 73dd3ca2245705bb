"""A thread that says where the processes stand when there is no progress, and ends a dead run."""

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
_GRACE = 1.1
"""Processes that wait get an error of their own after `timeout_seconds`."""

logger = logging.getLogger("advgrpo")


class Watchdog:
    """Watches this process while it is entered.

    Args:
        whereabouts: Of this process.
        config: How long nothing may happen.
        give_up: Ends the process; gets the reason in words. It is called in the watching thread,
            as the others may never come back.
        stacks: Where this process's stacks go; it must have a file descriptor.
    """

    def __init__(
        self,
        whereabouts: RankMonitor,
        config: HangsConfig,
        *,
        give_up: Callable[[str], None],
        stacks: IO[str] | None = None,
    ) -> None:
        self._whereabouts, self._config, self._give_up = whereabouts, config, give_up
        self._stacks = stacks
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._whereabouts.beat()
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
            idle = self._whereabouts.stand.idle_seconds
            try:
                self._whereabouts.tell()
                if idle < config.report_after_seconds:
                    reported = False
                elif not reported:
                    reported = True
                    self._report(idle)
                stands = self._whereabouts.in_words() if reported else ""
            except RuntimeError as error:
                # The process that keeps the store may be the one that is gone.
                stands = f"the other processes cannot be asked: {error}"
            if idle >= _GRACE * config.timeout_seconds:
                self._give_up(
                    f"no progress for {idle:.0f} s "
                    f"(training.hangs.timeout_seconds={config.timeout_seconds}): "
                    f"{stands}"
                )
                return

    def _report(self, idle: float) -> None:
        note = event("no_progress", seconds=round(idle, 1))
        logger.warning("no progress for %.0f s: %s", idle, self._whereabouts.in_words(), extra=note)
        faulthandler.dump_traceback(file=self._stacks or sys.stderr, all_threads=True)
