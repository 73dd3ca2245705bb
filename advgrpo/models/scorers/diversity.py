"""How much the images of one prompt differ from each other."""

import torch
from jaxtyping import Float
from torch import Tensor


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
