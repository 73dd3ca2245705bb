"""Time, as something that a test can hand in."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """What tells the time and lets it pass."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds since some moment."""

    wall: Callable[[], float] = time.time
    """Seconds since 1970."""

    sleep: Callable[[float], None] = time.sleep
