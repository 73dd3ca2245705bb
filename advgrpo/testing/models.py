"""Tiny models of the real classes, and fakes that training and evaluation can be handed.

Models are built from configurations with random
weights in milliseconds, and saved in the layouts that the real ones have.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config import RunConfig, resolve
from advgrpo.pocket import models
from advgrpo.pocket.tokenizers import build_clip_tokenizer

SIDE_PIXELS = 32


@dataclass(frozen=True)
class TinyModels:
    """Folders of tiny models with random weights."""

    pipeline: Path
    """A `StableDiffusion3Pipeline`."""

    dino: Path
    """A `Dinov2Model`."""

    pickscore: Path
    """A `CLIPModel` with its tokenizer."""

    def overrides(self) -> list[str]:
        """Settings that make the preset `pocket` use them."""
        text = "discriminator.prompt_conditioning"
        return [
            f"policy.weights.location={self.pipeline}",
            f"discriminator.weights.location={self.dino}",
            f"evaluation.distance.weights.location={self.dino}",
            f"{text}.text_encoder.location={self.pipeline}",
            f"{text}.tokenizer.location={self.pipeline}",
            f"training.reward.terms.1.weights.location={self.pickscore}",
        ]

    def config(self, *overrides: str) -> RunConfig:
        """Resolve the preset `pocket` with these models and further overrides."""
        return resolve("pocket", [*self.overrides(), *overrides])


def write_tiny_models(folder: Path, *, seed: int = 0) -> TinyModels:
    """Build tiny models of the real classes and save them.

    Args:
        folder: Gets a folder for each model.
        seed: Of the random weights.
    """
    tiny = TinyModels(folder / "pipeline", folder / "dino", folder / "pickscore")
    models.build_pipeline(seed).save_pretrained(tiny.pipeline)
    models.build_dino(seed).save_pretrained(tiny.dino)
    models.build_pickscore(seed).save_pretrained(tiny.pickscore)
    build_clip_tokenizer().save_pretrained(tiny.pickscore)
    side = {"height": SIDE_PIXELS, "width": SIDE_PIXELS}
    preprocessing = {
        "size": side,
        "crop_size": side,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    for model in (tiny.dino, tiny.pickscore):
        text = json.dumps(preprocessing)
        (model / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return tiny


@dataclass
class RecordingLogger:
    """Keeps what a run logs; stands where an MLflow run stands."""

    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Update and measures, in the order in which they came."""

    pictures: dict[tuple[str, int], bytes] = field(default_factory=dict)
    """PNG by name and update."""

    facts: dict[str, str] = field(default_factory=dict)
    """Tags by name."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep measures."""
        self.rows.append((step, dict(values)))

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Keep a picture."""
        self.pictures[name, step] = png

    def tags(self, values: Mapping[str, str]) -> None:
        """Keep facts of the whole run."""
        self.facts |= values

    def unsent_pictures(self) -> list[tuple[str, int, bytes]]:
        """Give all pictures: nothing is ever sent."""
        return [(name, step, png) for (name, step), png in self.pictures.items()]


class BrightnessScorer:
    """A frozen measure that needs no weights: how bright an image is, in [0, 1]."""

    name = "brightness"

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Measure each image; the prompt does not matter."""
        if len(prompts) != len(images):
            raise ValueError(f"{len(images)} images have {len(prompts)} prompts")
        return {"mean": torch.as_tensor(images.mean(dim=(1, 2, 3))).cpu()}
