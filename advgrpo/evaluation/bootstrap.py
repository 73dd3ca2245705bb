"""Intervals by resampling prompts."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.records import Interval

SET_RESAMPLES = 200
"""Most resamples of a distance between sets, which is computed anew for each."""


class Bootstrap:
    """Resamples the prompts of an evaluation, the same way for every measure and model.

    Images of one prompt are alike, so prompts are drawn, not images; base and trained model share
    each draw, so the interval of their difference is a paired one.

    Args:
        prompts: How many there are.
        samples: How often they are resampled.
        confidence: Share of the resamples within an interval, in (0, 1).
        seed: Decides the draws.

    Attributes:
        counts: How often each prompt was drawn.
    """

    def __init__(self, prompts: int, *, samples: int, confidence: float, seed: int) -> None:
        generator = generator_for("bootstrap", seed)
        draws = torch.randint(prompts, (samples, prompts), generator=generator)
        ones = torch.ones(samples, prompts, dtype=torch.float64)
        self.counts = torch.zeros_like(ones).scatter_add_(1, draws, ones)
        self._tail = (1 - confidence) / 2

    def means(self, values: Float[Tensor, "prompt"]) -> Float[Tensor, "resample"]:
        """Average a value per prompt over each resample; NaN marks a prompt without a value."""
        has_value = values.isfinite()
        counts = self.counts[:, has_value]
        return counts @ values[has_value].double() / counts.sum(dim=1)

    def each(
        self, distance: Callable[[Float[Tensor, "prompt"]], float]
    ) -> Float[Tensor, "resample"]:
        """Compute a distance of sets for the first resamples, from how often each prompt counts."""
        counts = self.counts[:SET_RESAMPLES]
        return torch.tensor([distance(count) for count in counts], dtype=torch.float64)

    def interval(self, estimate: float, resampled: Float[Tensor, "resample"]) -> Interval:
        """Put a percentile interval around an estimate.

        The resampled values are shifted until their mean is the estimate: prompts drawn twice make
        a Frechet distance larger, which says nothing about the estimate's spread. Resamples without
        a value, such as one prompt over and over, do not count.
        """
        resampled = resampled[resampled.isfinite()]
        tails = torch.tensor([self._tail, 1 - self._tail], dtype=torch.float64)
        low, high = (resampled - resampled.mean()).quantile(tails).tolist()
        return Interval(mean=estimate, low=estimate + low, high=estimate + high)
