"""How far a run has come, and what it cost."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Counters:
    """Counts and seconds of a run, over all its processes' lives."""

    turns: int = 0
    """Rollouts that were made and used."""

    updates: int = 0
    """Rollouts that updated the policy."""

    images_sampled: int = 0
    """Images of all rollouts, over all ranks."""

    skipped: int = 0
    """Rollouts that were left out, in all or in part, for values that are not finite."""

    skipped_in_a_row: int = 0

    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds of this rank by part of the work."""

    entered: Callable[[str, int], None] = lambda _part, _rollout: None
    """Told when a part of a rollout's work begins."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the seconds spent within it."""
        self.entered(part, self.turns)
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - start


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
