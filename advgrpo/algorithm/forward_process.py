"""The forward process: noised copies of clean latents, and the velocity that leads back."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "batch channel height width"]


def add_noise(clean: Latents, noise: Latents, *, sigma: float) -> Latents:
    """Return `(1 - sigma) * clean + sigma * noise`.

    Args:
        clean: Latents of images.
        noise: Standard normal.
        sigma: In (0, 1].
    """
    return torch.lerp(clean, noise, sigma)


def draw_sigmas(
    schedule: Float[Tensor, "step_plus_one"], count: int, *, generator: torch.Generator
) -> list[float]:
    """Draw one sigma from each of `count` equal parts of a schedule, without its final 0.

    Args:
        schedule: Falls to 0.
        count: At most the number of steps.
        generator: Seeded from (run seed, rollout), so that all images and ranks share the sigmas.
    """
    # In parts, because all images share the sigmas: an update at small ones alone would teach
    # little, and which ones it gets would decide the outcome of a short run.
    steps = len(schedule) - 1
    ends = [part * steps // count for part in range(count + 1)]
    return [
        float(schedule[int(torch.randint(first, last, (1,), generator=generator))])
        for first, last in pairwise(ends)
    ]
