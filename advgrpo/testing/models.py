"""Tiny models of the real classes, and fakes for training and evaluation.

Models are built from configurations with random weights in milliseconds, and saved in the layouts
of published ones.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    Siglip2Config,
    Siglip2Model,
    Siglip2TextConfig,
    Siglip2VisionConfig,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from advgrpo.config.resolution import resolve
from advgrpo.config.run import RunConfig
from advgrpo.pocket import models
from advgrpo.pocket.tokenizers import build_clip_tokenizer

SIDE_PIXELS = 32


@dataclass(frozen=True)
class TinyModels:
    """Folders of tiny models with random weights."""

    pipeline: Path
    """The policy: a pipeline in diffusers' layout."""

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
            f"training.reward.terms.1.scorer.weights.location={self.pickscore}",
        ]

    def config(self, *overrides: str) -> RunConfig:
        """Resolve the preset `pocket` with these models and more overrides."""
        return resolve("pocket", [*self.overrides(), *overrides])


def write_tiny_models(folder: Path, *, seed: int = 0) -> TinyModels:
    """Build tiny models of the real classes and save them.

    Args:
        folder: Gets one folder per model.
        seed: Of the random weights.

    Returns:
        The folders: the pocket models, with two layers of the transformer.
    """
    tiny = TinyModels(folder / "pipeline", folder / "dino", folder / "pickscore")
    pipeline = models.build_pipeline(seed)
    # Python's time for a layer exceeds that of its arithmetic. The last one discards its text.
    del pipeline.transformer.transformer_blocks[1:-1]
    pipeline.transformer.register_to_config(num_layers=len(pipeline.transformer.transformer_blocks))
    pipeline.save_pretrained(tiny.pipeline)
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


def write_tiny_backbone(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """Build a tiny vision backbone with random weights, and save it in the layout of a hub.

    Args:
        folder: Gets a folder of that name.
        kind: A key of `TINY_BACKBONES`.
        seed: Of the random weights.

    Returns:
        The model's folder: 3 blocks of width 16, 8 x 8 patches at 32 pixels.
    """
    # transformers initializes from the global generator, which tests share.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TINY_BACKBONES[kind]()
    model.save_pretrained(folder / kind)
    preprocessing = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": 2}
    path = folder / kind / "preprocessor_config.json"
    path.write_text(json.dumps(preprocessing), encoding="utf-8")
    return folder / kind


_SIZE: dict[str, int] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
_VISION: dict[str, int] = {**_SIZE, "patch_size": 4}
_TEXT: dict[str, int] = {**_SIZE, "intermediate_size": 32, "vocab_size": 50}


def _siglip() -> PreTrainedModel:
    vision = SiglipVisionConfig(**_VISION, intermediate_size=32, image_size=SIDE_PIXELS)
    return SiglipModel(SiglipConfig(text_config=SiglipTextConfig(**_TEXT), vision_config=vision))


def _siglip2() -> PreTrainedModel:
    vision = Siglip2VisionConfig(**_VISION, intermediate_size=32, num_patches=64)
    return Siglip2Model(Siglip2Config(text_config=Siglip2TextConfig(**_TEXT), vision_config=vision))


TINY_BACKBONES: Mapping[str, Callable[[], PreTrainedModel]] = {
    "dinov2": lambda: Dinov2Model(
        Dinov2Config(**_VISION, image_size=SIDE_PIXELS, layerscale_value=1.0)
    ),
    "dinov2_with_registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**_VISION, image_size=SIDE_PIXELS, num_register_tokens=2)
    ),
    "dinov3_vit": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(
            **_VISION, image_size=SIDE_PIXELS, intermediate_size=32, num_register_tokens=2
        )
    ),
    "siglip": _siglip,
    "siglip2": _siglip2,
}
"""`model_type` of `config.json` -> a tiny backbone of that class. For SigLIP it is the whole model
with its text half, as hubs serve it."""


@dataclass
class RecordingLogger:
    """A fake of the MLflow run that keeps what training logs."""

    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Update and metrics, in the order of the calls."""

    pictures: dict[tuple[str, int], bytes] = field(default_factory=dict)
    """PNG by name and update."""

    facts: dict[str, str] = field(default_factory=dict)
    """Tags by name."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics."""
        self.rows.append((step, dict(values)))

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Record a picture."""
        self.pictures[name, step] = png

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags of the whole run."""
        self.facts |= values

    def unsent_pictures(self) -> list[tuple[str, int, bytes]]:
        """Return all pictures, because none is ever sent."""
        return [(name, step, png) for (name, step), png in self.pictures.items()]


class BrightnessScorer:
    """A scorer without weights: the mean brightness of an image, in [0, 1]."""

    name = "brightness"

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Score each image; the prompt is ignored."""
        if len(prompts) != len(images):
            raise ValueError(f"{len(images)} images have {len(prompts)} prompts")
        return {"mean": torch.as_tensor(images.mean(dim=(1, 2, 3))).cpu()}
