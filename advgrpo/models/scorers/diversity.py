"""Diversity of the images of one prompt."""

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.scorers.base import MetricFacts

FACTS = {
    "diversity.in_group": MetricFacts(
        label="Diversity",
        note="distance between images of one prompt",
        range="0 and above",
        unit="feature",
        higher_is_better=None,
        source="mean distance of DINOv2 class tokens within a prompt",
        licence="DINOv2: Apache-2.0",
        blind_to="the kind of difference: noise is diverse, too",
    )
}
"""Facts about the diversity."""


def in_group_distance(
    features: Float[Tensor, "prompt sample feature"],
) -> Float[Tensor, "prompt"]:
    """Compute the mean distance between two images of the same prompt.

    Args:
        features: At least two images per prompt.

    Returns:
        Mean Euclidean distance over all pairs, in the unit of the features. It approaches 0
        as a policy collapses to one image per prompt.

    Raises:
        ValueError: If there are no pairs.
    """
    samples = features.shape[1]
    if samples < 2:
        raise ValueError("diversity needs at least two images of a prompt")
    # Inner products would cancel the digits of small distances between long vectors.
    distances = torch.cdist(
        features.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return distances.sum(dim=(1, 2)) / (samples * (samples - 1))
