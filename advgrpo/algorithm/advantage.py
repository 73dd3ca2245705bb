"""Advantages: rewards relative to the other images of the same prompt."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
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
        Dimensionless advantages. Each row sums to zero; equal rewards of any scale give exactly 0.

    Raises:
        ValueError: If a group has fewer than two images.

    Source:
        DeepSeekMath, arXiv:2402.03300; Flow-GRPO, arXiv:2505.05470; Dr. GRPO, arXiv:2503.20783.
    """
    if rewards.shape[1] < 2:
        raise ValueError(f"group_size={rewards.shape[1]}: a group needs at least two images")
    centred = _centred(rewards)
    # correction=0: the group is the population, not a sample of it.
    if normalization == "group":
        centred = centred / (centred.std(dim=1, keepdim=True, correction=0) + epsilon)
    elif normalization == "batch":
        # Of the uncentred rewards, as in Flow-GRPO: differences between prompts count, too.
        centred = centred / (rewards.double().std(correction=0) + epsilon)
    return centred.to(rewards.dtype)


def best_and_worst(rewards: Rewards, *, best: int, worst: int) -> Int[Tensor, "chosen"]:
    """Choose the images with the highest and the lowest rewards of each group.

    Args:
        rewards: One row per prompt, one column per image of that prompt's group; or advantages.
        best: Images with the highest rewards, of each group.
        worst: Images with the lowest rewards, of each group; together fewer than a group has.

    Returns:
        Positions in the flattened rewards, in ascending order.

    Source:
        Best-of-N training of DanceGRPO, arXiv:2505.07818.
    """
    # Stable, so that equal rewards are chosen alike on all devices.
    order = rewards.argsort(dim=1, stable=True)
    chosen = torch.cat([order[:, :worst], order[:, rewards.shape[1] - best :]], dim=1)
    first = torch.arange(len(rewards), device=rewards.device)[:, None] * rewards.shape[1]
    return (chosen + first).flatten().sort().values


def _centred(rewards: Rewards) -> Rewards:
    """Subtract each group's mean, in float64."""
    values = rewards.double()
    # From the first image, so that equal rewards are exactly 0 before their mean is taken. The
    # float32 mean of equal rewards near 100 is off by up to 1e-5, and `epsilon` is not much more.
    values = values - values[:, :1]
    return values - values.mean(dim=1, keepdim=True)


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
        # Divided after centring: a term that differs mostly between prompts would otherwise be
        # scaled down to nothing within its groups.
        centred = [_centred(term) for term in terms]
        terms = [
            (values / (values.std(correction=0) + epsilon)).to(term.dtype)
            for term, values in zip(terms, centred, strict=True)
        ]
    stacked = torch.stack(list(terms))
    return (stacked * stacked.new_tensor(weights).view(-1, 1, 1)).sum(dim=0)
