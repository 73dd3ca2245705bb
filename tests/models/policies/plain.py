"""Sampling and encoding with diffusers alone, without code of this package; and training on a
pretended GPU."""

from collections.abc import Sequence
from unittest.mock import patch

import torch
from diffusers import (
    DiffusionPipeline,
    QwenImageImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    ZImageImg2ImgPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

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


@torch.no_grad()
def encode_with_diffusers(pipeline: DiffusionPipeline, images: torch.Tensor) -> torch.Tensor:
    """Encode RGB in [0, 1] by a pipeline that changes images, without its noise and its draws."""
    pixels = pipeline.image_processor.preprocess(images)
    common = {"image": pixels, "batch_size": len(images), "timestep": None, "generator": None}
    common |= {"device": images.device, "dtype": images.dtype}
    mode = patch.object(DiagonalGaussianDistribution, "sample", lambda self, _: self.mode())
    noiseless = patch.object(pipeline.scheduler, "scale_noise", lambda latents, *_: latents)
    latents: torch.Tensor
    with mode, noiseless:
        if isinstance(pipeline, StableDiffusion3Img2ImgPipeline):
            latents = pipeline.prepare_latents(**common, num_images_per_prompt=1)
        elif isinstance(pipeline, ZImageImg2ImgPipeline):
            shape = {"num_channels_latents": pipeline.vae.config.latent_channels}
            shape |= {"height": images.shape[2], "width": images.shape[3]}
            latents = pipeline.prepare_latents(**common, **shape)
        elif isinstance(pipeline, QwenImageImg2ImgPipeline):
            latents = pipeline._encode_vae_image(pixels.unsqueeze(2), None).squeeze(2)
        else:
            latents = pipeline._encode_vae_image(pixels, None)
    return latents


def samples_and_trains(policy: Policy, guidance_scale: float) -> None:
    """Check that tensors are on the policy's device, and latents and gradients in float32."""
    prompts, seeds = ["a cat", "a dog and a bird"], [1, 2]
    images = sample_images(
        policy, prompts, seeds, num_inference_steps=2, guidance_scale=guidance_scale
    )
    assert images.device == policy.device
    encoded = policy.encode(images.cpu())
    assert (encoded.device, encoded.dtype) == (policy.device, torch.float32)
    latents = gaussian_noise(seeds, policy.latent_shape).to(policy.device)
    velocity = policy.velocity(latents, 0.5, policy.embed(prompts), guidance_scale=guidance_scale)
    velocity.square().mean().backward()
    gradients = [p.grad for p in policy.trainable_parameters().values() if p.grad is not None]
    assert {(g.device, g.dtype) for g in gradients} == {(policy.device, torch.float32)}
