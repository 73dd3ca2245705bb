"""Noised copies of the images of a microbatch, for losses on the forward process."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.forward_process import add_noise, draw_sigmas
from advgrpo.algorithm.randomness import gaussian_noise, generator_for
from advgrpo.algorithm.seeds import seed_for

Latents = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class NoisedCopy:
    """The images at one sigma."""

    sigma: float
    latents: Latents
    target: Latents
    """Noise minus image."""


def noised_copies(
    clean: Latents,
    images: Sequence[tuple[int, int]],
    schedule: Float[Tensor, "step_plus_one"],
    *,
    draws: int,
    seed: int,
    rollout: int,
) -> list[NoisedCopy]:
    """Draw sigmas and noise; they depend on no microbatch and no rank.

    Args:
        clean: Clean latents.
        images: Prompt id and position in the group of each.
        schedule: Sigmas of sampling.
        draws: Number of copies, each at another sigma.
        seed: The run's seed.
        rollout: Count of rollouts before this one.
    """
    sigmas = draw_sigmas(schedule, draws, generator=generator_for(seed, "sigma", rollout))
    shape = (clean.shape[1], clean.shape[2], clean.shape[3])
    copies = []
    for index, sigma in enumerate(sigmas):
        seeds = [seed_for(seed, rollout, *image, "draw", index) for image in images]
        noise = gaussian_noise(seeds, shape).to(clean.device)
        copies.append(NoisedCopy(sigma, add_noise(clean, noise, sigma=sigma), noise - clean))
    return copies
