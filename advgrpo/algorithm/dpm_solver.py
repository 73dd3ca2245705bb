"""DPM-Solver++ for flow models: second-order steps of the ODE from noise to image."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "batch channel height width"]


def follow_dpm_solver(
    velocity: Callable[[Latents, float], Latents], latents: Latents, sigmas: Sequence[float]
) -> Latents:
    """Integrate the ODE to the image; each step also uses the image that the last one predicted.

    The first step, which has no last one, and that to sigma 0 are Euler steps.

    Args:
        velocity: Predicts noise minus image at latents and a sigma.
        latents: At the first sigma, float32.
        sigmas: Decreasing, from at most 1 to 0.

    Source:
        DPM-Solver++(2M), arXiv:2211.01095, algorithm 2, with `alpha = 1 - sigma`.
    """
    before: tuple[Latents, float] | None = None
    for sigma, next_sigma in pairwise(sigmas):
        image = latents - sigma * velocity(latents, sigma)
        estimate = image
        # In half log-signal-to-noise ratios, which are infinite at sigma 1 and 0.
        if before is not None and next_sigma > 0 and before[1] < 1:
            length, last = _length(sigma, next_sigma), _length(before[1], sigma)
            estimate = image + (image - before[0]) * (length / (2 * last))
        kept = next_sigma / sigma
        latents = kept * latents + ((1 - next_sigma) - (1 - sigma) * kept) * estimate
        before = image, sigma
    return latents


def _length(sigma: float, next_sigma: float) -> float:
    return math.log((1 - next_sigma) / next_sigma) - math.log((1 - sigma) / sigma)
