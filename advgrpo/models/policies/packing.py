"""Latents as tokens: 2 x 2 latents each, with their channels side by side."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

PATCH = 2
"""Latents along a side of a token, in the transformers of all families."""


def pack(
    latents: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch token packed_channel"]:
    """Return the tokens of latents, row by row."""
    return pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(
    tokens: Float[Tensor, "batch token packed_channel"], height: int
) -> Float[Tensor, "batch channel height width"]:
    """Return the latents that `pack` turned into tokens.

    Args:
        tokens: Of images.
        height: Of the latents.
    """
    return pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (height // PATCH, -1)), PATCH)
