"""The loss by which the policy learns, at each trained denoising step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.policy_loss import PolicyLoss, clipped_policy_loss
from advgrpo.algorithm.sde import gaussian_divergence
from advgrpo.config.algorithms import AlgorithmConfig
from advgrpo.models.policies.base import FlowModel, PromptEmbeddings
from advgrpo.training.rollout import Denoiser, Rollout


@dataclass(frozen=True)
class StepLoss:
    """The loss of some images at one denoising step."""

    step: int
    policy: PolicyLoss
    divergence: Float[Tensor, ""] | None
    """From the base policy; None where it has no weight."""

    total: Float[Tensor, ""]
    """What is differentiated."""


def step_losses(
    policy: FlowModel,
    denoiser: Denoiser,
    config: AlgorithmConfig,
    rollout: Rollout,
    advantages: Float[Tensor, "image"],
    embeddings: PromptEmbeddings,
    chosen: slice = slice(None),
) -> Iterator[StepLoss]:
    """Compute a microbatch's loss at each trained step.

    Args:
        policy: The model being trained.
        denoiser: Its denoising step.
        config: Clipping, and the weight of the divergence.
        rollout: The images.
        advantages: One per image of the rollout.
        embeddings: Of the chosen images' prompts.
        chosen: Which of the images.
    """
    advantage = advantages[chosen].clamp(-config.advantage_clip, config.advantage_clip)
    for index in range(rollout.log_probs.shape[1]):
        latents, next_latents = (rollout.latents[chosen, index + k] for k in (0, 1))
        step = rollout.window_start + index
        base_mean = None
        if config.kl_weight:
            with torch.no_grad(), policy.base_policy():
                base_mean = denoiser.distribution(latents, step, embeddings).mean
        distribution = denoiser.distribution(latents, step, embeddings)
        log_prob = denoiser.log_prob(next_latents, distribution)
        result = clipped_policy_loss(
            log_prob, rollout.log_probs[chosen, index], advantage, clip_range=config.clip_range
        )
        if base_mean is None:
            yield StepLoss(step, result, None, result.loss)
            continue
        divergence = gaussian_divergence(distribution.mean, base_mean, std=distribution.std).mean()
        yield StepLoss(step, result, divergence, result.loss + config.kl_weight * divergence)
