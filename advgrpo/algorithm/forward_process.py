"""The forward process: noised copies of clean latents, and the velocity that leads back."""

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
    """Draw sigmas of a schedule, without its final 0, in random order without replacement.

    Args:
        schedule: Falls to 0.
        count: At most the number of steps.
        generator: Seeded from (run seed, rollout), so that all images and ranks share the sigmas.
    """
    chosen = torch.randperm(len(schedule) - 1, generator=generator)[:count]
    return [float(schedule[index]) for index in chosen]
