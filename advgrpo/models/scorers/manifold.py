"""Precision, recall, density and coverage, by nearest neighbours in a feature space.

A set is represented by the union of balls around its images, whose radius is the distance to the
k-th nearest image of the same set. Each metric is a mean of one value per image, so prompts can be
resampled without recomputing distances; the balls stay those of all images. The metrics depend on
the number of images of each prompt in both sets, so compare only sets of equally many images
against the same reference images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from advgrpo.config.scorers.base import MetricFacts

PRECISION_NEIGHBOURS = 3
"""Neighbours of the balls of precision and recall, as in their paper."""

DENSITY_NEIGHBOURS = 5
"""Neighbours of the balls of density and coverage, as in their paper."""

ROWS_AT_ONCE = 1024

_EQUAL = 1e-12
"""Squared distance, relative to the features, below which images are equal up to rounding."""


def _facts(
    label: str, note: str, range_: str, unit: str, source: str, blind_to: str
) -> MetricFacts:
    return MetricFacts(
        label=label,
        note=note,
        range=range_,
        unit=unit,
        higher_is_better=True,
        source=f"{source}, on DINOv2 class tokens",
        licence="DINOv2: Apache-2.0",
        blind_to=blind_to,
    )


FACTS = {
    "manifold.precision": _facts(
        "Precision",
        "generated images that look like reference images",
        "0 to 1",
        "share of generated images",
        "arXiv:1904.06991, k = 3",
        "missing variety; misled by outliers among the reference images",
    ),
    "manifold.recall": _facts(
        "Recall",
        "reference images that the model could generate",
        "0 to 1",
        "share of reference images",
        "arXiv:1904.06991, k = 3",
        "bad images; rises with outliers among the generated images",
    ),
    "manifold.density": _facts(
        "Density",
        "reference images around each generated image",
        "0 and above; near 1 for equal distributions",
        "neighbourhoods / k",
        "arXiv:2002.09797, k = 5",
        "missing variety: above 1 for a model that generates only the most common images",
    ),
    "manifold.coverage": _facts(
        "Coverage",
        "reference images with a generated image nearby",
        "0 to 1",
        "share of reference images",
        "arXiv:2002.09797, k = 5",
        "bad images next to good ones",
    ),
}
"""Facts about each metric."""


@dataclass(frozen=True)
class ManifoldValues:
    """One value per image, whose means are the metrics.

    Source:
        Precision and recall: arXiv:1904.06991, k = 3. Density and coverage: arXiv:2002.09797,
        k = 5.
    """

    precision: Float[Tensor, "image"]
    """1 for a generated image within a ball of the reference images."""

    recall: Float[Tensor, "reference_image"]
    """1 for a reference image within a ball of the generated images."""

    density: Float[Tensor, "image"]
    """Balls of the reference images that contain a generated image, divided by k."""

    coverage: Float[Tensor, "reference_image"]
    """1 for a reference image whose ball contains a generated image."""


def manifold_values(
    generated: Float[Tensor, "image feature"], reference: Float[Tensor, "reference_image feature"]
) -> ManifoldValues:
    """Compare two sets image by image.

    Args:
        generated: Features of one set.
        reference: Features of the other.

    Returns:
        In the order of the images. Precision, recall and coverage lie in [0, 1]; density is near 1
        for sets of one distribution and may be above.

    Raises:
        ValueError: If a set has too few images for its k-th neighbour.
    """
    # Squared throughout: comparisons need no roots.
    real = _radii(reference, PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS)
    # Shape `[image, 1]`, so that a row's radius broadcasts.
    fake = _radii(generated, PRECISION_NEIGHBOURS)
    in_balls = torch.zeros(len(generated), 2, dtype=torch.float64)
    recalled = torch.zeros(len(reference), dtype=torch.bool)
    covered = torch.zeros(len(reference), dtype=torch.bool)
    for rows, squares in _squared_distances(generated, reference):
        in_balls[rows, 0] = _within(squares, real[:, 0]).any(dim=1).double()
        dense = _within(squares, real[:, 1])
        in_balls[rows, 1] = dense.double().sum(dim=1) / DENSITY_NEIGHBOURS
        # Accumulated over chunks: a reference image is covered by any generated one.
        covered |= dense.any(dim=0)
        # The radius belongs to the row: fake[rows] broadcasts over the reference images.
        recalled |= (squares < fake[rows]).any(dim=0)
    return ManifoldValues(
        precision=in_balls[:, 0],
        recall=recalled.double(),
        density=in_balls[:, 1],
        coverage=covered.double(),
    )


def enough_images(images: int, reference_images: int) -> bool:
    """Return whether two sets have enough images for k neighbours."""
    return images > PRECISION_NEIGHBOURS and reference_images > DENSITY_NEIGHBOURS


def _within(
    squares: Float[Tensor, "image reference_image"], radii: Float[Tensor, "reference_image"]
) -> Bool[Tensor, "image reference_image"]:
    # Strictly: with `<=`, an image would count that is exactly the k-th neighbour.
    within: Tensor = squares < radii
    return within


def _radii(
    features: Float[Tensor, "image feature"], *neighbours: int
) -> Float[Tensor, "image neighbour"]:
    """Return the squared distances to some of the nearest images, by their rank starting at 1."""
    if len(features) <= max(neighbours):
        raise ValueError(
            f"{len(features)} images have no neighbour number {max(neighbours)} in their own set"
        )
    # topk includes the image itself, at distance 0, so the k-th neighbour has index k.
    nearest = [
        squares.topk(max(neighbours) + 1, largest=False).values
        for _rows, squares in _squared_distances(features, features)
    ]
    # One topk for all ranks, which is sorted in ascending order.
    return torch.cat(nearest)[:, list(neighbours)]


def _squared_distances(
    one: Float[Tensor, "image feature"], two: Float[Tensor, "other_image feature"]
) -> Iterator[tuple[Int[Tensor, "row"], Float[Tensor, "row other_image"]]]:
    """Compute squared distances in chunks to limit memory."""
    one, two = one.double(), two.double()
    # |x|^2 + |y|^2 - 2 x.y loses digits far from the origin, so centre the features first.
    centre = two.mean(dim=0)
    one, two = one - centre, two - centre
    lengths, other_lengths = one.square().sum(dim=1), two.square().sum(dim=1)
    for rows in torch.arange(len(one)).split(ROWS_AT_ONCE):
        scale = lengths[rows, None] + other_lengths
        squares = scale - 2 * one[rows] @ two.T
        # Rounding leaves small positive or negative values for equal images.
        yield rows, squares.where(squares > _EQUAL * scale, 0)
