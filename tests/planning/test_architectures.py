import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from advgrpo.config import resolve
from advgrpo.config.policy import Sd3AdapterConfig
from advgrpo.planning.architectures import Autoencoder, JointTransformer
from advgrpo.planning.encoder_architectures import Clip, ClipText, T5Encoder
from advgrpo.planning.models import models_of
from advgrpo.planning.published import PUBLISHED

ATTENTION = Sd3AdapterConfig().target_modules
SD35 = {
    size: PUBLISHED[f"hub://stabilityai/stable-diffusion-3.5-{size}"]
    for size in ("medium", "large")
}


def counted(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def sd3(config: Mapping[str, Any]) -> torch.nn.Module:
    width = config.get("num_attention_heads", 18) * config.get("attention_head_dim", 64)
    return SD3Transformer2DModel(**{**config, "caption_projection_dim": width})


def vae(config: Mapping[str, Any]) -> torch.nn.Module:
    levels = len(config["block_out_channels"])
    return AutoencoderKL(
        **config,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


TINY_SD3 = {
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 12,
    "in_channels": 4,
    "out_channels": 4,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": "rms_norm"},
        {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
        {"dual_attention_layers": (0,), "out_channels": 8, "patch_size": 4},
    ],
)
def test_a_small_sd3_has_as_many_parameters_as_counted(changes: dict[str, Any]) -> None:
    config = {**TINY_SD3, **changes}
    model = sd3(config)
    read = JointTransformer.read(config)
    assert read.parameters == counted(model)
    assert read.position_values == sum(buffer.numel() for buffer in model.buffers())


def test_missing_and_null_output_channels_are_those_of_diffusers() -> None:
    missing = {key: value for key, value in TINY_SD3.items() if key != "out_channels"}
    for config in (missing, {**TINY_SD3, "out_channels": None}):
        assert JointTransformer.read(config).parameters == counted(sd3(config))


@pytest.mark.parametrize("size", ["medium", "large"])
def test_the_published_sd35_have_as_many_parameters_as_counted(size: str) -> None:
    config = SD35[size]["transformer"]
    with torch.device("meta"):
        model = sd3(config)
    assert JointTransformer.read(config).parameters == counted(model)


def test_an_adapter_has_as_many_parameters_as_counted() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = sd3(TINY_SD3)
    adapted = inject_adapter_in_model(LoraConfig(r=4, target_modules=list(ATTENTION)), model)
    own = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    assert JointTransformer.read(TINY_SD3).adapter_parameters(4, ATTENTION) == own
    assert JointTransformer.read(TINY_SD3).adapter_parameters(4, ("ff.net.2",)) is None


@pytest.mark.parametrize("part", ["use_quant_conv", "use_post_quant_conv", None])
def test_a_small_vae_has_as_many_parameters_as_counted(part: str | None) -> None:
    config = {
        "block_out_channels": (32, 64, 64),
        "layers_per_block": 2,
        "latent_channels": 4,
        "mid_block_add_attention": part is not None,
        **({part: False} if part else {}),
    }
    assert Autoencoder.read(config).parameters == counted(vae(config))


def test_the_published_vae_has_as_many_parameters_as_counted() -> None:
    config = SD35["medium"]["vae"]
    with torch.device("meta"):
        model = vae(config)
    assert Autoencoder.read(config).parameters == counted(model)
    assert Autoencoder.read(config).stride == 8


@pytest.mark.parametrize(
    "name", [name for name in PUBLISHED if "/clip" in name.lower() or "PickScore" in name]
)
def test_a_published_clip_has_as_many_parameters_as_counted(name: str) -> None:
    config = PUBLISHED[name][""]
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**config))
    assert Clip.read(config).parameters == counted(model)


def test_a_small_clip_has_as_many_parameters_as_counted() -> None:
    half = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2}
    clip = {
        "projection_dim": 8,
        "text_config": {**half, "vocab_size": 50, **heads},
        "vision_config": {**half, "patch_size": 4, "image_size": 16, **heads},
    }
    assert Clip.read(clip).parameters == counted(CLIPModel(CLIPConfig(**clip)))


def test_published_text_encoders_have_as_many_parameters_as_counted() -> None:
    parts = SD35["medium"]
    with torch.device("meta"):
        t5 = T5EncoderModel(T5Config(**parts["text_encoder_3"]))
        clips = [
            CLIPTextModelWithProjection(CLIPTextConfig(**parts[name]))
            for name in ("text_encoder", "text_encoder_2")
        ]
    assert T5Encoder.read(parts["text_encoder_3"]).parameters == counted(t5)
    for name, clip in zip(("text_encoder", "text_encoder_2"), clips, strict=True):
        assert ClipText.read(parts[name]).parameters == counted(clip)


def test_a_small_t5_without_gates_has_as_many_parameters_as_counted() -> None:
    config = {
        "d_model": 16,
        "d_kv": 4,
        "num_heads": 2,
        "d_ff": 24,
        "num_layers": 2,
        "vocab_size": 30,
        "feed_forward_proj": "relu",
    }
    assert T5Encoder.read(config).parameters == counted(T5EncoderModel(T5Config(**config)))


def test_a_transformer_of_another_class_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "transformer" / "config.json"
    path.parent.mkdir()
    run = resolve("pocket", [f"policy.weights.location={tmp_path}"])
    path.write_text(json.dumps({**TINY_SD3, "_class_name": "SD3Transformer2DModel"}))
    assert models_of(run).transformer == JointTransformer.read(TINY_SD3)
    path.write_text(json.dumps({**TINY_SD3, "_class_name": "FluxTransformer2DModel"}))
    assert models_of(run).transformer is None
