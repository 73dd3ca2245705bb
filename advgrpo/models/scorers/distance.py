"""Distances between two sets of images in a frozen feature space.

The Frechet distance depends on the number of images: for two samples of the *same* distribution it
is above 0 and decreases as the samples grow. So compare only Frechet distances of equally many
images to the same reference images. Kernel distances have no such bias.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.config.scorers.base import MetricFacts

Kernel = Callable[
    [Float[Tensor, "image feature"], Float[Tensor, "other_image feature"]],
    Float[Tensor, "image other_image"],
]
"""A function that returns the similarity of each image of one set to each of another."""

CMMD_WIDTH = 10.0
"""Width of the Gaussian kernel between CLIP embeddings of length 1."""

CMMD_SCALE = 1000.0
"""Factor of the distance, as in the paper, for readability."""

_FRECHET = MetricFacts(
    label="Frechet distance",
    note="to the reference images; lower is better",
    range="0 and above; above 0 for equal distributions, the more so the fewer images",
    unit="squared feature",
    higher_is_better=False,
    source="arXiv:1706.08500, on DINOv2 class tokens",
    licence="DINOv2: Apache-2.0",
    blind_to="everything but mean and covariance; the prompts: images may be exchanged between "
    "them",
)
_KERNEL = MetricFacts(
    label="Kernel distance",
    note="to the reference images; lower is better",
    range="near 0 for equal distributions; may be negative",
    unit="squared discrepancy",
    higher_is_better=False,
    source="KID, arXiv:1801.01401, over all pairs of different prompts, on DINOv2 class tokens",
    licence="DINOv2: Apache-2.0",
    blind_to="the prompts, as above; has a larger variance than the Frechet distance",
)
_CMMD = MetricFacts(
    label="CMMD",
    note="to the reference images, by CLIP; lower is better",
    range="near 0 for equal distributions; may be negative",
    unit="squared discrepancy x 1000",
    higher_is_better=False,
    source="arXiv:2401.09603, over pairs of different prompts; the published code also includes "
    "pairs of an image with itself, which adds a little",
    licence="CLIP: MIT",
    blind_to="the prompts, as above; fine detail, which CLIP hardly represents",
)
FACTS = {"distance.frechet": _FRECHET, "distance.kernel": _KERNEL, "distance.cmmd": _CMMD}
"""Facts about each distance."""


def frechet_distance(
    generated: Float[Tensor, "image feature"],
    reference: Float[Tensor, "reference_image feature"],
    *,
    generated_weights: Float[Tensor, "image"] | None = None,
    reference_weights: Float[Tensor, "reference_image"] | None = None,
) -> float:
    """Compute the Frechet distance of two sets, each approximated by a Gaussian.

    `|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))`. With `C = F^T F` the last trace is the
    sum of the singular values of `F1 F2^T`: no matrix square root is needed, and fewer images than
    features are not a special case.

    Args:
        generated: Features of one set.
        reference: Features of the other.
        generated_weights: How often each image counts; once if not given.
        reference_weights: Likewise.

    Returns:
        A squared distance in the unit of the features, at least 0; its bias is described above.

    Raises:
        ValueError: If a set has fewer than two images.

    Source:
        arXiv:1706.08500, with unbiased covariances, in float64.
    """
    mean, factor = _moments(generated, generated_weights)
    reference_mean, reference_factor = _moments(reference, reference_weights)
    # Nonnegative and real by construction, unlike the root of a product of covariances, which
    # rounding may make complex.
    common = torch.linalg.svdvals(factor @ reference_factor.T).sum()
    distance: Tensor = (
        (mean - reference_mean).square().sum()
        + factor.square().sum()
        + reference_factor.square().sum()
        - 2 * common
    )
    # Rounding may make the distance of equal sets slightly negative.
    return max(0.0, float(distance))


def _moments(
    features: Float[Tensor, "image feature"], weights: Float[Tensor, "image"] | None
) -> tuple[Float[Tensor, "feature"], Float[Tensor, "rank feature"]]:
    """Return the mean, and a factor F of the covariance F^T F."""
    # Float64: the distance is a small difference of large traces.
    features = features.double()
    weights = torch.ones(len(features)) if weights is None else weights
    weights = weights.double()[:, None]
    total = weights.sum()
    if total < 2:
        raise ValueError("a covariance needs at least two images")
    mean = (weights * features).sum(dim=0) / total
    # Weights are counts, so the unbiased covariance divides by their sum minus 1.
    factor = (weights / (total - 1)).sqrt() * (features - mean)
    # Limits the singular value decomposition to the number of features, however many images.
    if factor.shape[0] > factor.shape[1]:
        # R has as many rows as features at most, and R^T R = F^T F.
        factor = torch.linalg.qr(factor, mode="r").R
    return mean, factor


def kernel_distance(
    generated: Float[Tensor, "image feature"],
    reference: Float[Tensor, "reference_image feature"],
) -> float:
    """Compute the distance of two sets by the kernel `(x.y / features + 1)^3`.

    Args:
        generated: Features of one set, sampled independently of each other and of the other set.
        reference: Features of the other set.

    Returns:
        An unbiased estimate of the squared maximum mean discrepancy: near 0, possibly negative, for
        sets of one distribution.

    Source:
        Kernel inception distance, arXiv:1801.01401, over all pairs rather than subsets.
    """
    n, m = len(generated), len(reference)
    within, within_reference = (
        cubic_kernel(generated, generated),
        cubic_kernel(reference, reference),
    )
    distance: Tensor = (
        # Without pairs of an image with itself, which would bias the estimate.
        (within.sum() - within.trace()) / (n * (n - 1))
        + (within_reference.sum() - within_reference.trace()) / (m * (m - 1))
        - 2 * cubic_kernel(generated, reference).mean()
    )
    return float(distance)


@dataclass(frozen=True)
class KernelSums:
    """Sums of the kernel over pairs of prompts, for sets of the same prompts.

    Images of one prompt are similar in both sets, so only pairs of different prompts are counted:
    with pairs of one prompt, two sets could be closer to each other than each to itself. Prompts
    can then be resampled without evaluating the kernel again.
    """

    generated: Float[Tensor, "prompt prompt"]
    reference: Float[Tensor, "prompt prompt"]
    cross: Float[Tensor, "prompt prompt"]
    generated_images: Float[Tensor, "prompt"]
    reference_images: Float[Tensor, "prompt"]

    @classmethod
    def between(
        cls,
        generated: Float[Tensor, "image feature"],
        generated_prompts: Int[Tensor, "image"],
        reference: Float[Tensor, "reference_image feature"],
        reference_prompts: Int[Tensor, "reference_image"],
        *,
        kernel: Kernel | None = None,
    ) -> "KernelSums":
        """Evaluate the kernel on all pairs of images.

        Args:
            generated: Features of one set.
            generated_prompts: Position of each image's prompt.
            reference: Features of the other set.
            reference_prompts: Likewise.
            kernel: None uses that of the kernel inception distance.
        """
        kernel = kernel or cubic_kernel
        # The sums of both sets need the same axes, also if the last prompt has no image in one set.
        count = int(max(generated_prompts.max(), reference_prompts.max())) + 1
        one, two = (generated, generated_prompts), (reference, reference_prompts)
        return cls(
            generated=_kernel_sums(one, one, count, kernel),
            reference=_kernel_sums(two, two, count, kernel),
            cross=_kernel_sums(one, two, count, kernel),
            generated_images=torch.bincount(generated_prompts, minlength=count).double(),
            reference_images=torch.bincount(reference_prompts, minlength=count).double(),
        )

    def distances(self, weights: Float[Tensor, "resample prompt"]) -> Float[Tensor, "resample"]:
        """Compute the kernel distance with each prompt repeated as often as its weight.

        Returns:
            NaN where only one prompt has a weight.
        """
        ones, twos = self.generated_images, self.reference_images
        return (
            _pair_mean(self.generated, torch.outer(ones, ones), weights)
            + _pair_mean(self.reference, torch.outer(twos, twos), weights)
            - 2 * _pair_mean(self.cross, torch.outer(ones, twos), weights)
        )


def cubic_kernel(
    one: Float[Tensor, "image feature"], two: Float[Tensor, "other_image feature"]
) -> Float[Tensor, "image other_image"]:
    """Compute `(x.y / features + 1)^3`, the kernel of arXiv:1801.01401."""
    return (one.double() @ two.double().T / one.shape[1] + 1).pow(3)


def gaussian_kernel(
    one: Float[Tensor, "image feature"], two: Float[Tensor, "other_image feature"]
) -> Float[Tensor, "image other_image"]:
    """Compute `exp(-|x - y|^2 / (2 width^2))` with the width of CMMD, arXiv:2401.09603."""
    # The squares cancel in float32 for embeddings that are close.
    one, two = one.double(), two.double()
    squares = one.square().sum(dim=1)[:, None] + two.square().sum(dim=1) - 2 * one @ two.T
    return torch.exp(-squares.clamp_min(0) / (2 * CMMD_WIDTH**2))


def _kernel_sums(
    one: tuple[Float[Tensor, "image feature"], Int[Tensor, "image"]],
    two: tuple[Float[Tensor, "other_image feature"], Int[Tensor, "other_image"]],
    prompts: int,
    kernel: Kernel,
    *,
    rows_at_once: int = 1024,
) -> Float[Tensor, "prompt prompt"]:
    """Sum the kernel over pairs of prompts, in chunks to limit memory."""
    sums = torch.zeros(prompts, prompts, dtype=torch.float64)
    for start in range(0, len(one[0]), rows_at_once):
        rows = one[0][start : start + rows_at_once]
        # Summed over columns first: the matrix of all pairs of images would not fit in memory.
        by_column = torch.zeros(len(rows), prompts, dtype=torch.float64)
        by_column.index_add_(1, two[1], kernel(rows, two[0]))
        sums.index_add_(0, one[1][start : start + rows_at_once], by_column)
    return sums


def _pair_mean(
    sums: Float[Tensor, "prompt prompt"],
    pairs: Float[Tensor, "prompt prompt"],
    weights: Float[Tensor, "resample prompt"],
) -> Float[Tensor, "resample"]:
    """Average over pairs of different prompts."""
    weights = weights.double()
    # A prompt drawn twice in a resample also makes no pair with itself: the diagonal stays out.
    different = 1 - torch.eye(len(sums), dtype=torch.float64)
    # `w^T S w` for all resamples in one product.
    total = ((weights @ (sums * different)) * weights).sum(dim=1)
    count = ((weights @ (pairs * different)) * weights).sum(dim=1)
    mean: Tensor = total / count
    return mean
