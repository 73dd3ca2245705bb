"""How much the images of one prompt differ from each other."""

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
    """Measure the mean distance between two images of the same prompt.

    Args:
        features: One row of images per prompt, at least two in each.

    Returns:
        Mean Euclidean distance over all pairs, in the unit of the features. It falls to 0 as a
        policy collapses to one image per prompt.

    Raises:
        ValueError: If there are no pairs.
    """
    samples = features.shape[1]
    if samples < 2:
        raise ValueError("diversity needs at least two images of a prompt")
    # The formula by inner products would lose small distances between long vectors.
    distances = torch.cdist(
        features.double(), features.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return distances.sum(dim=(1, 2)) / (samples * (samples - 1))
