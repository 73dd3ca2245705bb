"""Sampling with diffusers alone, without code of this package; and training on a pretended GPU."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusion3Pipeline

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.models.policies import Policy
from advgrpo.models.policies.sampling import sample_images


def sample_with_diffusers(
    pipeline: StableDiffusion3Pipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    like: Policy,
    guidance_scale: float = 2.5,
) -> torch.Tensor:
    """Sample the images that a policy samples with the same prompts and seeds, in 4 steps."""
    pipeline.set_progress_bar_config(disable=True)
    images: torch.Tensor = pipeline(
        prompt=list(prompts),
        negative_prompt=[""] * len(prompts),
        latents=gaussian_noise(seeds, like.latent_shape),
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        height=32,
        width=32,
        max_sequence_length=like.config.max_sequence_length,
        output_type="pt",
    ).images
    return images


def samples_and_trains(policy: Policy, guidance_scale: float) -> None:
    """Check that images and gradients are on the policy's device, the latter in float32."""
    prompts, seeds = ["a cat", "a dog and a bird"], [1, 2]
    images = sample_images(
        policy, prompts, seeds, num_inference_steps=2, guidance_scale=guidance_scale
    )
    assert images.device == policy.device
    latents = gaussian_noise(seeds, policy.latent_shape).to(policy.device)
    velocity = policy.velocity(latents, 0.5, policy.embed(prompts), guidance_scale=guidance_scale)
    velocity.square().mean().backward()
    gradients = [p.grad for p in policy.trainable_parameters().values() if p.grad is not None]
    assert {(g.device, g.dtype) for g in gradients} == {(policy.device, torch.float32)}
