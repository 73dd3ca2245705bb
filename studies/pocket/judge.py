"""Training of the judge on all styles, also after a round trip through the autoencoder."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from advgrpo.pocket.judge import JudgeConfig, PocketJudge
from advgrpo.pocket.models import seeded
from studies.pocket.batches import PictureBatch, StyleMixture, draw_batch
from studies.pocket.loop import OptimizationSettings, minimize
from studies.pocket.text import attribute_cross_entropy
from studies.pocket.vae import decode, encode_mean

SETTINGS = OptimizationSettings(steps=2500, batch_size=96, learning_rate=2e-3)
STYLE_WEIGHT = 2.0
POOLED_PICTURES = 24_576


@torch.no_grad()
def round_trip(
    vae: AutoencoderKL, pictures: Float[Tensor, "batch 3 32 32"]
) -> Float[Tensor, "batch 3 32 32"]:
    """Encode and decode pictures."""
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat([decode(vae, encode_mean(vae, p)).float() for p in pictures.split(128)])


def train_judge(
    vae: AutoencoderKL, seed: int, scale: float
) -> tuple[PocketJudge, dict[str, float]]:
    """Train the judge by cross entropy on attributes and squared error on style.

    Args:
        vae: The trained autoencoder, as the judge must read its pictures as well as drawn ones.
        seed: Determines weights and data.
        scale: Multiplies the number of steps.

    Returns:
        The judge and its own accuracy on held-out captions.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = SETTINGS.scaled(scale)
    pool = draw_batch(
        "train", "spread", max(1024, round(POOLED_PICTURES * min(scale, 1.0))), generator
    )
    pool.pictures[::2] = round_trip(vae, pool.pictures[::2])
    with seeded(seed):
        judge = PocketJudge(JudgeConfig())

    def loss() -> Tensor:
        batch = pool.rows(settings.batch_size, generator)
        verdict = judge(batch.pictures)
        style = nn.functional.mse_loss(verdict.style, batch.style)
        return (
            attribute_cross_entropy(verdict.attribute_logits, batch.labels) + STYLE_WEIGHT * style
        )

    trained = minimize(judge, loss, settings, name="judge")
    return trained, _measure(trained, vae, generator)


@torch.no_grad()
def _measure(
    judge: PocketJudge, vae: AutoencoderKL, generator: torch.Generator
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    mixtures: tuple[StyleMixture, ...] = ("base", "uniform", "reference")
    for mixture in mixtures:
        batch = draw_batch("test", mixture, 1024, generator)
        metrics |= _scores_of(judge, batch, batch.pictures, mixture)
        metrics |= _scores_of(
            judge, batch, round_trip(vae, batch.pictures), f"{mixture}_round_trip"
        )
    return metrics


def _scores_of(
    judge: PocketJudge, batch: PictureBatch, pictures: Float[Tensor, "batch 3 32 32"], name: str
) -> dict[str, float]:
    verdict = judge(pictures)
    right = (verdict.attributes() == batch.labels).float()
    return {
        f"{name}_attribute_accuracy": right.mean().item(),
        f"{name}_all_attributes": right.amin(dim=1).mean().item(),
        f"{name}_style_error": (verdict.style - batch.style).abs().mean().item(),
    }
