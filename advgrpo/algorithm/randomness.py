"""Random draws that depend on what they are for, never on who makes them."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def seed_for(*parts: int | str) -> int:
    """Derive a seed from what a draw is for.

    Args:
        parts: For instance the run's seed, the update, a prompt id and a sample index. Numbers and
            texts are told apart, and so are `("ab", "c")` and `("a", "bc")`.

    Returns:
        A number in [0, 2**63), the same in every process and version.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """Make a CPU generator seeded by `seed_for`."""
    return torch.Generator().manual_seed(seed_for(*parts))


def gaussian_noise(
    seeds: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "batch channel height width"]:
    """Draw standard normal latents, one seed per image.

    Args:
        seeds: One per image.
        shape: Channel, height and width.

    Returns:
        Float32 noise on the CPU; an image's noise does not depend on the others in the batch.
    """
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
