"""Selection of the adapter that a run returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from advgrpo.config.training import MonitoringConfig


@dataclass
class BestAdapter:
    """The best adapter so far by metrics that were not trained on.

    Args:
        config: The rule.
        alignment: Name of the alignment metric among the held-out metrics.
    """

    config: MonitoringConfig
    alignment: str
    base_alignment: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    def update(self, metrics: Mapping[str, float], values: Mapping[str, Tensor]) -> bool:
        """Keep an adapter if it is better than the best so far.

        An adapter whose alignment is within the tolerance beats one whose alignment is not; among
        the former the smaller distance wins, among the latter the better alignment.

        Args:
            metrics: Held-out metrics.
            values: The adapter's moving average.

        Returns:
            Whether it is the best now.
        """
        # The first call precedes all updates.
        if self.base_alignment is None:
            self.base_alignment = metrics[self.alignment]
        if (
            self.config.select_adapter == "best"
            and self.values
            and self._rank(metrics) <= self._rank(self.metrics)
        ):
            return False
        self.metrics = dict(metrics)
        # Cloned, because the moving average changes in place.
        self.values = {name: value.detach().clone() for name, value in values.items()}
        return True

    def _rank(self, metrics: Mapping[str, float]) -> tuple[bool, float]:
        alignment = metrics[self.alignment]
        floor = (self.base_alignment or 0.0) - self.config.alignment_tolerance
        holds = alignment >= floor
        # The second elements are compared only if the first ones are equal, so their units never
        # mix.
        return holds, -metrics["held_out/distance"] if holds else alignment
