"""Confidence intervals by resampling prompts."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.records import Interval

SET_RESAMPLES = 200
"""Largest number of resamples of a distance between sets, which is recomputed for each."""


class Bootstrap:
    """Resamples of the prompts of an evaluation, the same for all metrics and models.

    Images of one prompt are correlated, so prompts are resampled, not images; base and trained
    model share each resample, so the interval of their difference is paired.

    Args:
        prompts: Number of prompts.
        samples: Number of resamples.
        confidence: Share of the resamples within an interval, in (0, 1).
        seed: Seed of the resamples.

    Attributes:
        counts: How often each resample contains each prompt.
    """

    def __init__(self, prompts: int, *, samples: int, confidence: float, seed: int) -> None:
        generator = generator_for("bootstrap", seed)
        # On the CPU, so that intervals do not depend on the device.
        draws = torch.randint(prompts, (samples, prompts), generator=generator)
        ones = torch.ones(samples, prompts, dtype=torch.float64)
        # Counts instead of indices: a mean over all resamples is then one matrix product.
        self.counts = torch.zeros_like(ones).scatter_add_(1, draws, ones)
        self._tail = (1 - confidence) / 2

    def means(self, values: Float[Tensor, "prompt"]) -> Float[Tensor, "resample"]:
        """Average a value per prompt over each resample; NaN marks a prompt without a value."""
        has_value = values.isfinite()
        # Removed, not weighted by 0: 0 times NaN is NaN.
        counts = self.counts[:, has_value]
        return counts @ values[has_value].double() / counts.sum(dim=1)

    def each(
        self, distance: Callable[[Float[Tensor, "prompt"]], float]
    ) -> Float[Tensor, "resample"]:
        """Compute a distance of sets for the first resamples, from the counts of the prompts."""
        # A Frechet distance takes a singular value decomposition per resample.
        counts = self.counts[:SET_RESAMPLES]
        return torch.tensor([distance(count) for count in counts], dtype=torch.float64)

    def interval(self, estimate: float, resampled: Float[Tensor, "resample"]) -> Interval:
        """Return a percentile interval around an estimate.

        Resamples without a value, such as those of a single prompt, are ignored.
        """
        resampled = resampled[resampled.isfinite()]
        tails = torch.tensor([self._tail, 1 - self._tail], dtype=torch.float64)
        # Repeated prompts bias a Frechet distance upwards, so the resamples are centred on the
        # estimate: only their spread is used.
        low, high = (resampled - resampled.mean()).quantile(tails).tolist()
        return Interval(mean=estimate, low=estimate + low, high=estimate + high)
