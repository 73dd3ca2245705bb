"""Tiny models of the real classes, saved in the layout of a hub."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from advgrpo.pocket.tokenizers import build_clip_tokenizer

TOKENS = 12


@pytest.fixture
def dino_folder(tmp_path: Path) -> Path:
    """A DINOv2 of width 16 with 4 x 4 patches at 16 pixels, and its preprocessing."""
    config = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        layerscale_value=1.0,
    )
    folder = tmp_path / "dino"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def text_config() -> CLIPTextConfig:
    """A CLIP text encoder of width 16 for the pocket world's words."""
    tokenizer = build_clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A whole CLIP of width 16 at 16 pixels, with tokenizer and preprocessing."""
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    config = CLIPConfig(
        text_config=text_config().to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    folder = tmp_path / "clip"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    build_clip_tokenizer().save_pretrained(folder)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def text_encoder_folder(tmp_path: Path) -> Path:
    """A CLIP text model with projection and its tokenizer in subfolders of a pipeline."""
    folder = tmp_path / "pipeline"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPTextModelWithProjection(text_config()).save_pretrained(folder / "text_encoder")
    build_clip_tokenizer().save_pretrained(folder / "tokenizer")
    return folder
