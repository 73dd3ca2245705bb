"""The contrastive loss of DiffusionNFT.

Deviations from the released code: all images of an update share their sigmas, and the error's mean
is computed in float32.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "batch channel height width"]
Batch = Float[Tensor, "batch"]

_LEAST_ERROR = 1e-5
"""Lower limit of the normalizing error, as released: clean latents that are hit exactly."""


@dataclass(frozen=True)
class NftLoss:
    """The loss, and what describes it."""

    loss: Float[Tensor, ""]
    contrast: Batch
    """Mean absolute difference of the two velocities, relative to the old one's size."""

    error: Batch
    """Mean squared error of the trained policy's velocity, without gradient."""


def optimality_probability(advantage: Batch, *, advantage_clip: float) -> Batch:
    """Return the probability that an image is a good one: `1/2 + clip(A / c, -1, 1) / 2`.

    Args:
        advantage: Dimensionless.
        advantage_clip: c, above 0.

    Source:
        DiffusionNFT, arXiv:2509.16117, section 3.3.
    """
    return 0.5 + 0.5 * (advantage / advantage_clip).clamp(-1, 1)


def nft_loss(
    velocity: Latents,
    old_velocity: Latents,
    target: Latents,
    advantage: Batch,
    *,
    sigma: float,
    beta: float,
    advantage_clip: float,
) -> NftLoss:
    """Match the implicit positive policy to good images and the negative one to bad images.

    `c / beta * mean(r E(v+) + (1 - r) E(v-))` with `v+ = (1 - beta) v_old + beta v`,
    `v- = (1 + beta) v_old - beta v` and the self-normalized error E. Its gradient at `v = v_old` is
    that of the mean of `A E(v)`, whatever beta and c.

    Args:
        velocity: The trained policy's, with gradient.
        old_velocity: The old policy's.
        target: Noise minus image.
        advantage: Dimensionless.
        sigma: Of the noised latents, in (0, 1].
        beta: Above 0.
        advantage_clip: c, above 0.

    Source:
        DiffusionNFT, arXiv:2509.16117, theorem 3.2 and section 3.3.
    """
    # With a gradient through the old velocity, the two branches cancel when the policies are equal.
    old = old_velocity.detach()
    positive = self_normalized_error((1 - beta) * old + beta * velocity, target, sigma=sigma)
    negative = self_normalized_error((1 + beta) * old - beta * velocity, target, sigma=sigma)
    good = optimality_probability(advantage, advantage_clip=advantage_clip)
    loss = advantage_clip / beta * (good * positive + (1 - good) * negative).mean()
    present = velocity.detach()
    size = old.abs().mean(dim=(1, 2, 3)).clamp(min=_LEAST_ERROR)
    return NftLoss(
        loss=loss,
        contrast=(present - old).abs().mean(dim=(1, 2, 3)) / size,
        error=((present - target) ** 2).mean(dim=(1, 2, 3)),
    )


def self_normalized_error(velocity: Latents, target: Latents, *, sigma: float) -> Batch:
    """Return the squared error of the predicted image over its mean absolute error.

    Both are means over the elements of an image; the second has no gradient. The error of
    `latents - sigma * velocity` as a prediction of the image is `sigma` times that of the velocity.
    """
    error = sigma * (velocity - target)
    size = error.detach().abs().mean(dim=(1, 2, 3)).clamp(min=_LEAST_ERROR)
    return (error**2).mean(dim=(1, 2, 3)) / size
