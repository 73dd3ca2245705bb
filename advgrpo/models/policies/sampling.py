"""Sampling of images with the ODE, without added noise."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.algorithm.sde import follow_ode
from advgrpo.models.policies.base import FlowModel


@torch.no_grad()
def sample_images(
    policy: FlowModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    num_inference_steps: int,
    guidance_scale: float,
) -> Float[Tensor, "batch 3 height width"]:
    """Sample one image per prompt and seed, in one batch.

    Args:
        policy: With its adapter enabled, or disabled within `policy.base_policy()`.
        prompts: One per image.
        seeds: One per image; the image depends on nothing else.
        num_inference_steps: Steps from noise to image.
        guidance_scale: Weight of classifier-free guidance; 1 switches it off.

    Returns:
        RGB in [0, 1], on the policy's device.
    """
    embeddings = policy.embed(prompts)
    sigmas = policy.sigmas(num_inference_steps).tolist()
    # Latents stay float32 between steps, as in the rollout; `velocity` casts a copy.
    latents = gaussian_noise(seeds, policy.latent_shape).to(policy.device)
    return policy.decode(
        follow_ode(
            lambda latents, sigma: policy.velocity(
                latents, sigma, embeddings, guidance_scale=guidance_scale
            ),
            latents,
            sigmas,
        )
    )
