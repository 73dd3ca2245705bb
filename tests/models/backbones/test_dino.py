import json
from pathlib import Path

import pytest
import torch
from transformers import Dinov2Model

from advgrpo.config import Weights
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.backbones.dino import DinoBackbone

CPU = torch.device("cpu")


def load(folder: Path, resolution_pixels: int = 16) -> DinoBackbone:
    weights = Weights(location=str(folder))
    return DinoBackbone(weights, resolution_pixels=resolution_pixels, device=CPU)


def some_images(count: int, side: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_tokens_are_those_of_the_model_after_its_final_norm(dino_folder: Path) -> None:
    images = some_images(3)
    pixels = (images - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor(
        [0.2, 0.25, 0.3]
    ).view(1, 3, 1, 1)
    model = Dinov2Model.from_pretrained(dino_folder).eval()

    tokens = load(dino_folder).tokens(images)

    with torch.no_grad():
        expected = model(pixel_values=pixels)
    assert torch.equal(tokens, expected.last_hidden_state)
    assert torch.equal(tokens[:, 0], expected.pooler_output)


def test_the_class_token_and_one_token_per_patch_come_out(dino_folder: Path) -> None:
    backbone = load(dino_folder, resolution_pixels=24)

    tokens = backbone.tokens(some_images(2, side=40))

    assert backbone.patches == 36
    assert tokens.shape == (2, 37, backbone.width)


def test_an_image_has_the_same_tokens_alone_and_in_a_batch(dino_folder: Path) -> None:
    backbone, images = load(dino_folder), some_images(5)

    assert torch.allclose(backbone.tokens(images)[3:4], backbone.tokens(images[3:4]), atol=1e-6)


def test_nothing_of_the_backbone_can_be_trained(dino_folder: Path) -> None:
    images = some_images(1).requires_grad_()

    assert not load(dino_folder).tokens(images).requires_grad


def test_a_folder_without_preprocessing_is_normalized_as_imagenet(dino_folder: Path) -> None:
    (dino_folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]})
    )
    named = load(dino_folder)
    (dino_folder / "preprocessor_config.json").unlink()
    silent = load(dino_folder)

    assert silent.fingerprint == named.fingerprint
    assert torch.equal(silent.tokens(some_images(1)), named.tokens(some_images(1)))


@pytest.mark.parametrize(
    "settings",
    [
        "[]",
        "[" * 50_000,
        '{"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "resample": []}',
        '{"image_mean": [1e999, 0, 0], "image_std": [1, 1, 1]}',
        '{"image_mean": [0, 0, 0], "image_std": [1, 1, NaN]}',
        '{"image_mean": [0, 0, 1%s], "image_std": [1, 1, 1]}' % ("0" * 400),
    ],
)
def test_preprocessing_that_cannot_be_used_is_refused(dino_folder: Path, settings: str) -> None:
    (dino_folder / "preprocessor_config.json").write_text(settings)
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json"):
        load(dino_folder)


def test_the_fingerprint_follows_weights_and_preprocessing(dino_folder: Path) -> None:
    first = load(dino_folder)
    assert load(dino_folder).fingerprint == first.fingerprint
    assert load(dino_folder, resolution_pixels=24).fingerprint != first.fingerprint

    model = Dinov2Model.from_pretrained(dino_folder)
    with torch.no_grad():
        model.layernorm.bias += 1e-3
    model.save_pretrained(dino_folder)

    assert load(dino_folder).fingerprint != first.fingerprint


def test_loading_leaves_the_global_random_state_alone(dino_folder: Path) -> None:
    before = torch.get_rng_state()

    load(dino_folder)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_resolution_that_splits_a_patch_is_refused_with_one_that_fits(dino_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"resolution_pixels=18 is not a multiple") as refusal:
        load(dino_folder, resolution_pixels=18)

    assert "set it to 16" in refusal.value.repair
