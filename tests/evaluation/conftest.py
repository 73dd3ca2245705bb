"""What the tests of evaluation share."""

import json

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from advgrpo.config import DistanceConfig, EvaluationConfig, SamplingConfig, Weights
from advgrpo.data.images import encode_png
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.pocket.tokenizers import build_clip_tokenizer
from advgrpo.records import PromptSet, ReferenceImageSet
from tests.evaluation.world import PROMPTS, SIDE, ColourPolicy, colour_of


@pytest.fixture
def policy() -> ColourPolicy:
    return ColourPolicy()


@pytest.fixture
def prompts() -> PromptSet:
    return PromptSet(texts=PROMPTS, digest="0" * 64)


@pytest.fixture
def sampling() -> SamplingConfig:
    return SamplingConfig(num_inference_steps=3, guidance_scale=0.6)


@pytest.fixture
def config() -> EvaluationConfig:
    return EvaluationConfig(
        images_per_prompt=2,
        batch_size=5,
        distance=DistanceConfig(weights=Weights(location="unused"), resolution_pixels=SIDE),
        alignment="judge.colour",
        bootstrap_samples=100,
        grid_prompts=3,
    )


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> DinoBackbone:
    settings = Dinov2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=4,
        layerscale_value=1.0,
    )
    folder = tmp_path_factory.mktemp("dino")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Dinov2Model(settings).save_pretrained(folder)
    return DinoBackbone(
        Weights(location=str(folder)), resolution_pixels=SIDE, device=torch.device("cpu")
    )


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipBackbone:
    folder = tmp_path_factory.mktemp("clip")
    tower = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {**tower, "vocab_size": len(build_clip_tokenizer()), "max_position_embeddings": 12}
    vision = {**tower, "image_size": SIDE, "patch_size": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(
            CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        ).save_pretrained(folder)
    build_clip_tokenizer().save_pretrained(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return ClipBackbone(Weights(location=str(folder)), torch.device("cpu"))


@pytest.fixture(scope="session")
def reference_images(tmp_path_factory: pytest.TempPathFactory) -> ReferenceImageSet:
    """Four images per prompt in its colour, a little noisy."""
    root = tmp_path_factory.mktemp("references")
    generator = torch.Generator().manual_seed(0)
    files: dict[str, tuple[str, ...]] = {}
    for position, prompt in enumerate(PROMPTS):
        names = tuple(f"{position}_{variation}.png" for variation in range(4))
        for name in names:
            noise = 0.1 * torch.randn(3, SIDE, SIDE, generator=generator)
            image = (colour_of(prompt)[:, None, None] + noise).clamp(0, 1)
            (root / name).write_bytes(encode_png(image))
        files[prompt] = names
    return ReferenceImageSet(root=str(root), files=files, resolution_pixels=SIDE, digest="1" * 64)
