"""Advantages: rewards relative to the other images of the same prompt."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Rewards = Float[Tensor, "prompt sample"]


def group_advantages(
    rewards: Rewards,
    *,
    normalization: Literal["group", "batch", "none"],
    epsilon: float = 1e-4,
) -> Rewards:
    """Center each reward on its group and scale it.

    Args:
        rewards: One row per prompt, one column per image of that prompt's group. Any scale.
        normalization: Divide by the standard deviation of the group, of the whole batch, or not at
            all.
        epsilon: Added to the standard deviation, in reward units.

    Returns:
        Dimensionless advantages. Each row sums to zero, so equal rewards contribute no gradient.

    Raises:
        ValueError: If a group has fewer than two images.

    Source:
        DeepSeekMath, arXiv:2402.03300; Flow-GRPO, arXiv:2505.05470; Dr. GRPO, arXiv:2503.20783.
    """
    if rewards.shape[1] < 2:
        raise ValueError(f"group_size={rewards.shape[1]}: a group needs at least two images")
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # correction=0: the group is the population, not a sample of it.
    if normalization == "none":
        return centred
    if normalization == "group":
        return centred / (rewards.std(dim=1, keepdim=True, correction=0) + epsilon)
    # Of the uncentred rewards, as in Flow-GRPO: differences between prompts count, too.
    return centred / (rewards.std(correction=0) + epsilon)


def combined_rewards(
    terms: Sequence[Rewards],
    weights: Sequence[float],
    *,
    standardize: bool,
    epsilon: float = 1e-4,
) -> Rewards:
    """Add the terms of a reward.

    Args:
        terms: Rewards of each term, of one shape.
        weights: One per term.
        standardize: First center each term on its groups and divide it by the remaining standard
            deviation over the whole rollout, so that no term dominates by its scale.
        epsilon: Added to that standard deviation, in the term's units.

    Returns:
        The weighted sum.
    """
    if standardize:
        centred = [term - term.mean(dim=1, keepdim=True) for term in terms]
        # After centring: a term that differs mostly between prompts would otherwise be scaled down
        # to nothing within its groups.
        terms = [term / (term.std(correction=0) + epsilon) for term in centred]
    stacked = torch.stack(list(terms))
    return (stacked * stacked.new_tensor(weights).view(-1, 1, 1)).sum(dim=0)
