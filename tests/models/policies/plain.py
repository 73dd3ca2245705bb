"""Sampling with diffusers alone, without code of this package."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusion3Pipeline

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.models.policies import Policy


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
