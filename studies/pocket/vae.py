"""Pre-training of the autoencoder."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from advgrpo.pocket.models import build_vae, seeded
from studies.pocket.batches import draw_batch
from studies.pocket.loop import OptimizationSettings, minimize

SETTINGS = OptimizationSettings(steps=5000, batch_size=16, learning_rate=2.5e-3)
KL_WEIGHT = 1e-4
EDGE_WEIGHT = 2.0


def encode_mean(
    vae: AutoencoderKL, pictures: Float[Tensor, "batch 3 32 32"]
) -> Float[Tensor, "batch 8 8 8"]:
    """Encode pictures to scaled latents, as the policy sees them."""
    latents = vae.encode(pictures * 2.0 - 1.0, return_dict=False)[0].mean
    scaled: Tensor = (latents - vae.config.shift_factor) * vae.config.scaling_factor
    return scaled


def decode(
    vae: AutoencoderKL, latents: Float[Tensor, "batch 8 8 8"]
) -> Float[Tensor, "batch 3 32 32"]:
    """Decode scaled latents to pictures in [0, 1]."""
    unscaled = latents / vae.config.scaling_factor + vae.config.shift_factor
    decoded: Tensor = vae.decode(unscaled, return_dict=False)[0]
    return (decoded * 0.5 + 0.5).clamp(0.0, 1.0)


def train_vae(seed: int, scale: float) -> tuple[AutoencoderKL, dict[str, float]]:
    """Train the autoencoder by L1, squared errors of pixels and of edges, and a very small KL term.

    Args:
        seed: Determines weights and data.
        scale: Multiplies the number of steps.

    Returns:
        The autoencoder, its scaling and shift set from data, and its measured errors.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = SETTINGS.scaled(scale)
    with seeded(seed):
        vae = build_vae()

    def loss() -> Tensor:
        target = draw_batch("train", "spread", settings.batch_size, generator).pictures * 2.0 - 1.0
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(target, return_dict=False)[0]
            latents = posterior.sample(generator=generator)
            output: Tensor = vae.decode(latents, return_dict=False)[0].float()
        kl: Tensor = posterior.kl().float().mean() / output[0].numel()
        difference = output - target
        edges = difference.diff(dim=2).square().mean() + difference.diff(dim=3).square().mean()
        plain = difference.abs().mean() + difference.square().mean()
        return plain + EDGE_WEIGHT * edges + KL_WEIGHT * kl

    trained = minimize(vae, loss, settings, name="vae")
    return trained, _calibrate(trained, generator)


@torch.no_grad()
def _calibrate(vae: AutoencoderKL, generator: torch.Generator) -> dict[str, float]:
    latents = encode_mean(vae, draw_batch("train", "base", 2048, generator).pictures)
    vae.register_to_config(
        shift_factor=latents.mean().item(), scaling_factor=1.0 / latents.std().item()
    )
    metrics: dict[str, float] = {}
    for mixture in ("base", "spread"):
        pictures = draw_batch("test", mixture, 512, generator).pictures
        error = (decode(vae, encode_mean(vae, pictures)) - pictures).square().mean()
        metrics[f"peak_signal_to_noise_db_{mixture}"] = -10.0 * error.log10().item()
    return metrics
