"""Counters and timers of a run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Counters:
    """Counts and seconds of a run, across restarts."""

    rollouts: int = 0
    """Rollouts that were generated and used."""

    updates: int = 0
    """Rollouts that updated the policy."""

    images_sampled: int = 0
    """Images of all rollouts, over all ranks."""

    skipped: int = 0
    """Rollouts that were skipped, in whole or in part, because of non-finite values."""

    skipped_in_a_row: int = 0

    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds of this rank by part of the work."""

    on_enter: Callable[[str, int], None] = lambda _part, _rollout: None
    """Called with the part and the rollout when a part of a rollout's work begins."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds spent in the context to a part of the work."""
        self.on_enter(part, self.rollouts)
        start = time.monotonic()
        try:
            yield
        finally:
            # Also after an error: time of a skipped rollout is part of the cost.
            self.seconds[part] = self.seconds.get(part, 0.0) + time.monotonic() - start
