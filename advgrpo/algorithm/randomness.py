"""Random draws seeded by their purpose, so that rank and order of execution do not matter."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.seeds import seed_for


def generator_for(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `seed_for`."""
    return torch.Generator().manual_seed(seed_for(*parts))


def gaussian_noise(
    seeds: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "batch channel height width"]:
    """Draw standard normal latents with one seed per image.

    Args:
        seeds: One per image.
        shape: Channel, height and width.

    Returns:
        Float32 noise on the CPU; an image's noise does not depend on the others in the batch.
    """
    # Drawn on the CPU, because a GPU's generator gives other numbers for the same seed.
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
