"""The backbones as they are counted, against the libraries' own classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    Siglip2VisionConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from advgrpo.config import Weights
from advgrpo.models.backbones.vision import BACKBONES, load_vision_backbone
from advgrpo.planning.published import PUBLISHED
from advgrpo.planning.vision import read_dino, read_vision
from advgrpo.testing import TINY_BACKBONES, write_tiny_backbone

CONFIGS = {
    "dinov2": Dinov2Config,
    "dinov2_with_registers": Dinov2WithRegistersConfig,
    "dinov3_vit": DINOv3ViTConfig,
    "siglip": SiglipVisionConfig,
    "siglip2": Siglip2VisionConfig,
}
NAMES = [n for n in PUBLISHED if any(word in n for word in ("/dino", "/siglip"))]


def counted(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def built(config: Any) -> PreTrainedModel:  # noqa: ANN401 - a library's configuration
    """The vision half of a model, without memory for its weights."""
    (backbone,) = [b for b in BACKBONES if config.model_type in b.model_types]
    with torch.device("meta"):
        return backbone.model_class(config)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_backbone_has_as_many_parameters_as_counted(name: str) -> None:
    config = dict(PUBLISHED[name][""])
    kind = str(config.pop("model_type", "dinov2"))
    vision = config.get("vision_config", config)
    head_width = 72 if "so400m" in name else 64
    heads = {"num_attention_heads": vision.get("hidden_size", 768) // head_width}
    read = read_vision(PUBLISHED[name][""])
    assert read is not None
    assert read.parameters == counted(built(CONFIGS[kind](**{**vision, **heads})))


@pytest.mark.parametrize("kind", sorted(TINY_BACKBONES))
def test_a_small_backbone_is_as_large_as_counted(kind: str, tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path, kind)
    read = read_vision(AutoConfig.from_pretrained(folder).to_dict())
    assert read is not None
    weights = Weights(location=str(folder))
    loaded: Any = load_vision_backbone(weights, resolution_pixels=48, device=torch.device("cpu"))
    assert read.parameters == counted(loaded._model)
    assert (read.width, read.layers) == (loaded.width, loaded.blocks)
    assert read.patches(48) == loaded.patches
    hidden = loaded._run(torch.zeros(1, 3, 48, 48)).last_hidden_state
    assert read.tokens(48) == hidden.shape[1]


def test_options_of_architectures_are_counted() -> None:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    three = {**sizes, "intermediate_size": 40, "num_register_tokens": 3}
    for changes in ({"use_gated_mlp": True}, {"key_bias": True}, {"mlp_bias": False}):
        config = {**three, **changes}
        read = read_vision({"model_type": "dinov3_vit", **config})
        assert read is not None
        assert read.parameters == counted(DINOv3ViTModel(DINOv3ViTConfig(**config)))
    flat = {**sizes, "intermediate_size": 40, "vision_use_head": False}
    read = read_vision({"model_type": "siglip_vision_model", **flat})
    assert read is not None
    assert read.parameters == counted(SiglipVisionModel(SiglipVisionConfig(**flat)))
    two = {"hidden_size": 24, "num_hidden_layers": 2, "mlp_ratio": 2, "image_size": 28}
    assert read_dino(two).parameters == counted(
        Dinov2Model(Dinov2Config(**two, num_attention_heads=2))
    )


def test_another_architecture_is_not_counted() -> None:
    assert read_vision({"model_type": "clip"}) is None
