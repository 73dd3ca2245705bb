"""A clock that only the test advances."""

from dataclasses import dataclass


@dataclass
class Clock:
    """Replacement of `time.time` and `time.sleep`."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
