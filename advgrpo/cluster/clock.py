"""Time, as a dependency that tests replace."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Functions that read the time and wait."""

    monotonic: Callable[[], float] = time.monotonic
    """Seconds since an arbitrary moment."""

    wall: Callable[[], float] = time.time
    """Seconds since 1970."""

    sleep: Callable[[float], None] = time.sleep
