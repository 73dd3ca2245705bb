"""Pre-training of the pocket PickScore on matching captions and on preferences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPModel

from advgrpo.pocket.captions import Split, captions_of
from advgrpo.pocket.models import build_pickscore
from advgrpo.pocket.pictures import PictureNoise, render_labels
from advgrpo.pocket.tokenizers import build_clip_tokenizer
from studies.pocket.batches import draw_styles
from studies.pocket.dino import normalize
from studies.pocket.judge import round_trip
from studies.pocket.loop import OptimizationSettings, minimize

SETTINGS = OptimizationSettings(steps=2000, batch_size=64, learning_rate=2e-3, ema_decay=0.99)
STYLE_PREFERENCE = 3.0
MISTAKE_PREFERENCE = 2.5
PREFERENCE_WEIGHT = 1.0
POOLED_PAIRS = 12_288


@dataclass(frozen=True)
class PicturePairs:
    """Two pictures per caption, and which one a noisy preference selects."""

    first: Float[Tensor, "batch 3 32 32"]
    second: Float[Tensor, "batch 3 32 32"]
    input_ids: Int[Tensor, "batch 12"]
    first_preferred: Float[Tensor, "batch"]
    utility_margin: Float[Tensor, "batch"]

    def rows(self, size: int, generator: torch.Generator) -> PicturePairs:
        """Draw rows with replacement."""
        index = torch.randint(0, len(self.first), (size,), generator=generator)
        return PicturePairs(
            self.first[index],
            self.second[index],
            self.input_ids[index],
            self.first_preferred[index],
            self.utility_margin[index],
        )


class PairSource:
    """A source of pairs of pictures that differ in style and in mistaken attributes."""

    def __init__(self, vae: AutoencoderKL, split: Split, generator: torch.Generator) -> None:
        captions = captions_of(split)
        tokenizer = build_clip_tokenizer()
        texts = [caption.text for caption in captions]
        self._vae, self._generator = vae, generator
        self._labels = torch.tensor([caption.labels for caption in captions])
        self._ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids

    def draw(self, batch: int) -> PicturePairs:
        """Draw a batch of pairs."""
        index = torch.randint(0, len(self._labels), (batch,), generator=self._generator)
        labels = self._labels[index]
        first, first_utility = self._picture(labels)
        second, second_utility = self._picture(labels)
        margin = first_utility - second_utility
        chance = torch.rand(batch, generator=self._generator)
        preferred = (chance < margin.sigmoid()).float()
        return PicturePairs(first, second, self._ids[index], preferred, margin)

    def _picture(
        self, labels: Int[Tensor, "batch 5"]
    ) -> tuple[Float[Tensor, "batch 3 32 32"], Float[Tensor, "batch"]]:
        batch = len(labels)
        other = self._labels[
            torch.randint(0, len(self._labels), (batch,), generator=self._generator)
        ]
        change = torch.rand(batch, 5, generator=self._generator) < 0.12
        drawn = torch.where(change, other, labels)
        style = draw_styles("spread", batch, self._generator)
        pictures = render_labels(drawn, style, PictureNoise.draw(batch, self._generator))
        pictures[::3] = round_trip(self._vae, pictures[::3])
        mistakes = (drawn != labels).sum(1)
        return pictures, STYLE_PREFERENCE * style - MISTAKE_PREFERENCE * mistakes


def train_pickscore(
    vae: AutoencoderKL, seed: int, scale: float
) -> tuple[CLIPModel, dict[str, float]]:
    """Train by contrast between captions and by noisy Bradley-Terry preferences.

    Args:
        vae: The trained autoencoder.
        seed: Determines weights and data.
        scale: Multiplies the number of steps.

    Returns:
        The model, and how often it prefers the truly better picture on held-out captions.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = SETTINGS.scaled(scale)
    model = build_pickscore(seed)
    model.set_attn_implementation("eager")
    source = PairSource(vae, "train", generator)
    pool = source.draw(max(512, round(POOLED_PAIRS * min(scale, 1.0))))

    def loss() -> Tensor:
        pairs = pool.rows(settings.batch_size, generator)
        with torch.autocast("cpu", torch.bfloat16):
            first, second = _scores(model, pairs)
        target = torch.arange(settings.batch_size)
        contrast = nn.functional.cross_entropy(first, target)
        contrast = contrast + nn.functional.cross_entropy(first.T, target)
        margin = first.diag() - second.diag()
        preference = nn.functional.binary_cross_entropy_with_logits(margin, pairs.first_preferred)
        return 0.5 * contrast + PREFERENCE_WEIGHT * preference

    trained = minimize(model, loss, settings, name="pickscore")
    trained.set_attn_implementation("sdpa")
    with torch.no_grad():
        pairs = PairSource(vae, "test", generator).draw(2048)
        first, second = _scores(trained, pairs)
        margin = first.diag() - second.diag()
    agreement = ((margin > 0) == (pairs.utility_margin > 0)).float().mean().item()
    return trained, {"preference_agreement": agreement, "mean_score": first.diag().mean().item()}


def _scores(
    model: CLIPModel, pairs: PicturePairs
) -> tuple[Float[Tensor, "batch batch"], Float[Tensor, "batch batch"]]:
    """Score every picture for every caption: exp(logit_scale) times the cosine."""
    pixels = normalize(torch.cat([pairs.first, pairs.second]))
    outputs = model(input_ids=pairs.input_ids, pixel_values=pixels)
    first, second = outputs.logits_per_image.float().chunk(2)
    return first, second
