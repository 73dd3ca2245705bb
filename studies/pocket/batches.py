"""Random batches of labelled pictures for pre-training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.pocket.captions import COLOURS, SHAPES, Split, captions_of
from advgrpo.pocket.pictures import PictureNoise, render_labels

StyleMixture = Literal["base", "uniform", "spread", "reference"]


@dataclass(frozen=True)
class PictureBatch:
    """Pictures with the labels of their captions and their styles."""

    pictures: Float[Tensor, "batch 3 32 32"]
    labels: Int[Tensor, "batch 5"]
    style: Float[Tensor, "batch"]
    caption_index: Int[Tensor, "batch"]

    def rows(self, size: int, generator: torch.Generator) -> PictureBatch:
        """Draw rows with replacement."""
        index = torch.randint(0, len(self.pictures), (size,), generator=generator)
        return PictureBatch(
            self.pictures[index], self.labels[index], self.style[index], self.caption_index[index]
        )


def draw_styles(
    mixture: StyleMixture, batch: int, generator: torch.Generator
) -> Float[Tensor, "batch"]:
    """Draw styles: `base` is Beta(1, 3.5), `reference` is 1, `spread` mixes all three."""
    uniform = torch.rand(batch, generator=generator)
    if mixture == "uniform":
        return uniform
    if mixture == "reference":
        return torch.ones(batch)
    base = 1.0 - (1.0 - uniform) ** (1.0 / 3.5)
    if mixture == "base":
        return base
    kind = torch.randint(0, 4, (batch,), generator=generator)
    return torch.where(kind == 0, uniform, torch.where(kind == 1, torch.ones(batch), base))


def draw_batch(
    split: Split,
    mixture: StyleMixture,
    batch: int,
    generator: torch.Generator,
    mistake_rate: float = 0.0,
) -> PictureBatch:
    """Draw random captions of a split and their pictures.

    Args:
        split: Split of the captions.
        mixture: Distribution of the styles.
        batch: Number of pictures.
        generator: The only source of randomness.
        mistake_rate: Probability at style 0 of drawing a shape or colour that is not the caption's.
            It falls with the cube of (1 - style), so crisp pictures are right.

    Returns:
        Pictures with the labels of their captions, also where the picture is mistaken.
    """
    table = torch.tensor([caption.labels for caption in captions_of(split)])
    index = torch.randint(0, len(table), (batch,), generator=generator)
    labels, style = table[index], draw_styles(mixture, batch, generator)
    drawn = labels
    if mistake_rate > 0.0:
        wrong = torch.rand(batch, generator=generator) < mistake_rate * (1.0 - style) ** 3
        column = torch.where(torch.rand(batch, generator=generator) < 0.5, 1, 2)
        other = torch.randint(0, min(len(COLOURS), len(SHAPES)), (batch,), generator=generator)
        drawn = labels.clone()
        rows = wrong.nonzero().flatten()
        drawn[rows, column[rows]] = other[rows]
    noise = PictureNoise.draw(batch, generator)
    return PictureBatch(render_labels(drawn, style, noise), labels, style, index)
