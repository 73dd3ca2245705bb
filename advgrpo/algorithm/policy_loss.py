"""The policy losses of GRPO."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Batch = Float[Tensor, "batch"]


@dataclass(frozen=True)
class PolicyLoss:
    """The loss, and the ratios and clipping behind it."""

    loss: Float[Tensor, ""]
    ratio: Batch
    """exp(log_prob - rollout_log_prob), without gradient."""

    clipped_above: Float[Tensor, ""]
    """Share of images with a positive advantage that give no gradient, because they are likelier
    by more than the bound."""

    clipped_below: Float[Tensor, ""]
    """Share of images with a negative advantage that give no gradient, because they are less likely
    by more than the bound."""


def clipped_policy_loss(
    log_prob: Batch, rollout_log_prob: Batch, advantage: Batch, *, clip_range: float
) -> PolicyLoss:
    """Compute the clipped surrogate loss of PPO.

    `mean(max(-A ratio, -A clip(ratio, 1 - c, 1 + c)))`.

    Args:
        log_prob: Of the present policy, with gradient.
        rollout_log_prob: Recorded at sampling.
        advantage: Dimensionless.
        clip_range: c, above 0.

    Source:
        PPO, arXiv:1707.06347, equation 7; Flow-GRPO, arXiv:2505.05470, equation 5.
    """
    # Of a mean over elements, so ratios stay close to 1 and exp does not overflow. The clip range
    # of 1e-5 is meant for this scale.
    ratio = torch.exp(log_prob - rollout_log_prob)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    # The pessimistic bound: clipping only removes gradients that lead further away.
    loss = torch.maximum(-advantage * ratio, -advantage * clipped).mean()
    # For metrics and the check; a graph behind it would keep a microbatch in memory.
    detached = ratio.detach()
    above = ((advantage > 0) & (detached > 1 + clip_range)).float().mean()
    below = ((advantage < 0) & (detached < 1 - clip_range)).float().mean()
    return PolicyLoss(loss=loss, ratio=detached, clipped_above=above, clipped_below=below)


def divergence_policy_loss(
    log_prob: Batch,
    rollout_log_prob: Batch,
    advantage: Batch,
    divergence: Batch,
    *,
    bound: float,
) -> PolicyLoss:
    """Compute the surrogate loss with a bound on the divergence of the steps.

    `mean(-A ratio)` over images that diverge by at most the bound or would come back; the others
    count as 0.

    Args:
        log_prob: Of the present policy, with gradient.
        rollout_log_prob: Recorded at sampling.
        advantage: Dimensionless.
        divergence: Of the present step's distribution from the one at sampling.
        bound: Above 0.

    Source:
        Flow-DPPO, arXiv:2606.11025.
    """
    ratio = torch.exp(log_prob - rollout_log_prob)
    detached, beyond = ratio.detach(), divergence.detach() > bound
    # The divergence is the trust region; the ratio only gives the direction.
    above = beyond & (advantage > 0) & (detached > 1)
    below = beyond & (advantage < 0) & (detached < 1)
    loss = torch.where(above | below, 0.0, -advantage * ratio).mean()
    return PolicyLoss(
        loss=loss,
        ratio=detached,
        clipped_above=above.float().mean(),
        clipped_below=below.float().mean(),
    )


def normalized_log_ratio(
    log_prob: Batch, rollout_log_prob: Batch, divergence: Batch, *, std: float
) -> Batch:
    """Return the log-ratio without its mean, in the same scale at each step.

    `std * (log_prob - rollout_log_prob + divergence)`, which is the mean product of the noise that
    was drawn and the movement of the step's mean: 0 on average, of a spread that does not depend
    on std.

    Args:
        log_prob: Log-density under the present policy, averaged over elements.
        rollout_log_prob: The same at sampling.
        divergence: Of the step's two distributions, averaged over elements, with gradient.
        std: Of the step.

    Source:
        GRPO-Guard, arXiv:2510.22319, equation 8.
    """
    return std * (log_prob - rollout_log_prob + divergence)
