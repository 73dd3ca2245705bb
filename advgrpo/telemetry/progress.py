"""Progress of a task: as log lines, and as JSON lines for a front end."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from advgrpo.telemetry.formatting import format_duration
from advgrpo.telemetry.logging import event as log_event
from advgrpo.telemetry.logging import machine_event

PROGRESS_FILE = "ADVGRPO_PROGRESS_FILE"
"""Environment variable that names the file to which progress is appended, a JSON object a line."""

AS_BARS = "ADVGRPO_PROGRESS_BARS"
"""Environment variable: progress is on the screen as bars, so a text log leaves it out."""

listeners: list[Callable[[Mapping[str, object]], None]] = []
"""Functions that get each event as well. They run in the task's thread, so they must be quick."""

logger = logging.getLogger("advgrpo")


def publish(event: Mapping[str, object]) -> None:
    """Append an event to the progress file, if one is named.

    An event that cannot be written, for instance on a full disk, is dropped: the task continues.
    """
    for listener in listeners:
        listener(event)
    path = os.environ.get(PROGRESS_FILE)
    if path:
        # Several processes append to the file: with mode "a" and one short write for each event,
        # lines do not mix.
        with suppress(OSError), Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")


class Progress:
    """Counter of one phase of a task.

    Args:
        phase: Name of the phase for users, for instance "reference images".
        total: How many units there are.
        unit: What is counted, for instance "images".
        seconds_between: Least time between two log lines; the progress file gets every count.
    """

    def __init__(self, phase: str, total: int, unit: str, *, seconds_between: float = 10.0) -> None:
        self.phase = phase
        self.total = total
        self.unit = unit
        self.done = 0
        self._start = time.monotonic()
        self._start_count = 0
        self._seconds_between = seconds_between
        # The first count is always logged.
        self._last_log = float("-inf")
        self._advanced = self._start
        self.seconds_since_before = 0.0
        """Seconds that the units counted last took."""

        self._emit({})

    def resume_at(self, done: int) -> None:
        """Count units of an earlier attempt as done, without their effect on the time left."""
        self.done = self._start_count = done
        self._emit({})

    def advance(self, count: int = 1, metrics: Mapping[str, float] | None = None) -> None:
        """Count units as done.

        Args:
            count: How many.
            metrics: Named metrics to show next to the bar.
        """
        self.done += count
        now = time.monotonic()
        self.seconds_since_before, self._advanced = now - self._advanced, now
        self._emit(metrics or {})

    @property
    def seconds_each(self) -> float | None:
        """Mean seconds of a unit; None before the first one is done."""
        made = self.done - self._start_count
        return (time.monotonic() - self._start) / made if made > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None before the first unit is done."""
        each = self.seconds_each
        return None if each is None else each * (self.total - self.done)

    def _emit(self, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        left = self.seconds_left
        event = {
            "phase": self.phase,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "seconds_each": self.seconds_each,
            "seconds_left": left,
            "metrics": dict(metrics),
        }
        publish(event)
        # The last count of a phase is always logged.
        if self.done < self.total and now - self._last_log < self._seconds_between:
            return
        self._last_log = now
        shown = "".join(f", {name} {value:.4g}" for name, value in metrics.items())
        eta = "" if left is None or self.done >= self.total else f", {format_duration(left)} left"
        line = f"{self.phase}: {self.done}/{self.total} {self.unit}{shown}{eta}"
        kind = machine_event if os.environ.get(AS_BARS) else log_event
        logger.info("%s", line, extra=kind("progress", **event))
