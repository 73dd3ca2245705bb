"""Pre-training of the text encoders on a caption's attributes; afterwards they stay frozen.

A policy of this size learns much faster when its conditioning is informative from the first step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float, Int
from torch import Tensor, nn

from advgrpo.pocket.captions import ATTRIBUTES, Split, captions_of
from advgrpo.pocket.models import seeded
from advgrpo.pocket.tokenizers import T5_LENGTH
from studies.pocket.loop import OptimizationSettings, minimize

SETTINGS = OptimizationSettings(steps=500, batch_size=128, learning_rate=3e-3, ema_decay=0.98)


@dataclass(frozen=True)
class CaptionEmbeddings:
    """Embeddings of a list of captions, which condition the policy."""

    context: Float[Tensor, "caption token width"]
    pooled: Float[Tensor, "caption pooled"]


class _Spellers(nn.Module):
    """The three encoders, each with a linear classifier of the attributes."""

    def __init__(self, pipeline: StableDiffusion3Pipeline) -> None:
        super().__init__()
        clips = [pipeline.text_encoder, pipeline.text_encoder_2]
        self.clips = nn.ModuleList(clips)
        self.t5 = pipeline.text_encoder_3
        classes = sum(len(values) for values in ATTRIBUTES.values())
        widths = [clip.config.projection_dim for clip in clips]
        widths.append(pipeline.text_encoder_3.config.d_model)
        self.heads = nn.ModuleList([nn.Linear(width, classes) for width in widths])

    def forward(
        self, clip_ids: Int[Tensor, "batch 12"], t5_ids: Int[Tensor, "batch 10"]
    ) -> list[Float[Tensor, "batch classes"]]:
        features = [clip(clip_ids).text_embeds for clip in self.clips]
        features.append(self.t5(t5_ids).last_hidden_state.mean(1))
        return [head(feature) for head, feature in zip(self.heads, features, strict=True)]


def attribute_cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch 5"]
) -> Float[Tensor, ""]:
    """Average the cross entropies of the five attributes, whose logits are concatenated."""
    pieces = logits.split([len(values) for values in ATTRIBUTES.values()], dim=1)
    losses = [
        nn.functional.cross_entropy(piece, label)
        for piece, label in zip(pieces, labels.unbind(1), strict=True)
    ]
    return torch.stack(losses).mean()


def train_text_encoders(
    pipeline: StableDiffusion3Pipeline, seed: int, scale: float
) -> dict[str, float]:
    """Train the pipeline's three text encoders in place, then freeze them.

    Returns:
        The share of correctly classified attributes of held-out captions, for each encoder.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = SETTINGS.scaled(scale)
    with seeded(seed):
        spellers = _Spellers(pipeline)
    train = captions_of("train")
    clip_ids, t5_ids = _tokens(pipeline, [caption.text for caption in train])
    labels = torch.tensor([caption.labels for caption in train])

    def loss() -> Tensor:
        rows = torch.randint(0, len(train), (settings.batch_size,), generator=generator)
        readings = spellers(clip_ids[rows], t5_ids[rows])
        return torch.stack([attribute_cross_entropy(r, labels[rows]) for r in readings]).sum()

    average = minimize(spellers, loss, settings, name="text")
    spellers.load_state_dict(average.state_dict())
    spellers.eval().requires_grad_(False)
    metrics = _accuracy(pipeline, spellers)
    for clip in (pipeline.text_encoder, pipeline.text_encoder_2):
        clip.text_projection.weight.div_(clip(clip_ids).text_embeds.std())
    return metrics


def embed_captions(pipeline: StableDiffusion3Pipeline, texts: list[str]) -> CaptionEmbeddings:
    """Encode captions exactly as the pipeline does when it draws."""
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(
            prompt=texts,
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_LENGTH,
        )
    return CaptionEmbeddings(context, pooled)


def _tokens(
    pipeline: StableDiffusion3Pipeline, texts: list[str]
) -> tuple[Int[Tensor, "caption 12"], Int[Tensor, "caption 10"]]:
    clip = pipeline.tokenizer(texts, padding="max_length", return_tensors="pt")
    t5 = pipeline.tokenizer_3(texts, padding="max_length", return_tensors="pt")
    return clip.input_ids, t5.input_ids


@torch.no_grad()
def _accuracy(pipeline: StableDiffusion3Pipeline, spellers: _Spellers) -> dict[str, float]:
    split: Split = "test"
    captions = captions_of(split)
    labels = torch.tensor([caption.labels for caption in captions])
    readings = spellers(*_tokens(pipeline, [caption.text for caption in captions]))
    metrics: dict[str, float] = {}
    for name, reading in zip(("clip", "clip_2", "t5"), readings, strict=True):
        pieces = reading.split([len(values) for values in ATTRIBUTES.values()], dim=1)
        right = torch.stack([piece.argmax(1) for piece in pieces], dim=1) == labels
        metrics[f"{name}_attribute_accuracy"] = right.float().mean().item()
    return metrics
