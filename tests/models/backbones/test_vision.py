import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)

from advgrpo.config import Weights
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.backbones.vision import BACKBONES, VisionBackbone, load_vision_backbone
from advgrpo.testing import TINY_BACKBONES, write_tiny_backbone

CPU = torch.device("cpu")
KINDS = sorted(TINY_BACKBONES)
PREFIX = {"dinov2": 0, "dinov2_with_registers": 2, "dinov3_vit": 2}
"""Register tokens after the class token; SigLIP has neither."""


def load(folder: Path, resolution_pixels: int = 32) -> VisionBackbone:
    weights = Weights(location=str(folder))
    return load_vision_backbone(weights, resolution_pixels=resolution_pixels, device=CPU)


def some_images(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def normalized(images: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    return (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def own_output(folder: Path, kind: str, images: torch.Tensor) -> Any:  # noqa: ANN401
    """Output of the library's own model."""
    if kind == "siglip2":
        model = Siglip2VisionModel.from_pretrained(folder).eval()
        pixels = normalized(images)
        patches = torch.nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2)
        # `unfold` has the colours first; the model was trained with them last.
        patches = patches.view(len(images), 64, 3, 16).transpose(2, 3).flatten(2)
        return model(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(len(images), 64).int(),
            spatial_shapes=torch.tensor([[8, 8]] * len(images)),
            output_hidden_states=True,
        )
    loader = SiglipVisionModel if kind == "siglip" else AutoModel
    model = loader.from_pretrained(folder).eval()
    return model(pixel_values=normalized(images), output_hidden_states=True)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_library_without_registers(kind: str, tmp_path: Path) -> None:
    folder, images = write_tiny_backbone(tmp_path, kind), some_images()
    backbone = load(folder)

    tokens = backbone.tokens(images)

    with torch.no_grad():
        expected = own_output(folder, kind, images)
    assert tokens.shape == (3, 65, 16)
    assert (backbone.width, backbone.patches, backbone.blocks) == (16, 64, 3)
    torch.testing.assert_close(tokens[:, 0], expected.pooler_output)
    torch.testing.assert_close(tokens[:, 1:], expected.last_hidden_state[:, -64:])


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_the_outputs_of_the_blocks_after_the_final_norm(
    kind: str, tmp_path: Path
) -> None:
    folder, images = write_tiny_backbone(tmp_path, kind), some_images()
    backbone = load(folder)

    last, second = backbone.layer_tokens(images, [3, 2])

    with torch.no_grad():
        hidden = own_output(folder, kind, images).hidden_states[2]
        norm = {"dinov3_vit": "norm", "siglip": "post_layernorm", "siglip2": "post_layernorm"}
        hidden = getattr(backbone._model, norm.get(kind, "layernorm"))(hidden)
    torch.testing.assert_close(last, backbone.tokens(images))
    torch.testing.assert_close(second[:, 1:], hidden[:, -64:])
    whole = hidden[:, 0] if kind in PREFIX else hidden.mean(dim=1)
    torch.testing.assert_close(second[:, 0], whole)
    assert not torch.allclose(second, last)


@pytest.mark.parametrize("kind", KINDS)
def test_another_resolution_has_more_patches_and_the_same_batch_independence(
    kind: str, tmp_path: Path
) -> None:
    backbone, images = load(write_tiny_backbone(tmp_path, kind), 48), some_images(4, side=40)

    together, alone = backbone.tokens(images), backbone.tokens(images[2:3])

    assert backbone.patches == 144
    assert together.shape == (4, 145, 16)
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_can_be_trained_and_equal_files_have_equal_fingerprints(
    kind: str, tmp_path: Path
) -> None:
    one = load(write_tiny_backbone(tmp_path / "one", kind))
    same = load(write_tiny_backbone(tmp_path / "same", kind))
    other = load(write_tiny_backbone(tmp_path / "other", kind, seed=1))

    assert not one.tokens(some_images(1).requires_grad_()).requires_grad
    assert one.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_tensor_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = write_tiny_backbone(tmp_path, kind) / "model.safetensors"
    tensors = load_file(path)
    # Any norm of the vision half's second block.
    gone = next(n for n in tensors if ".1." in n and "norm" in n and "text" not in n)
    del tensors[gone]
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(WeightsError, match=r"lack 1 tensors .*norm"):
        load(path.parent)


@pytest.mark.parametrize("kind", KINDS)
def test_pickled_and_truncated_weights_are_refused(kind: str, tmp_path: Path) -> None:
    path = write_tiny_backbone(tmp_path, kind) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(path.parent)
    path.unlink()
    torch.save({}, path.with_name("pytorch_model.bin"))
    with pytest.raises(WeightsError, match="pickled weights only"):
        load(path.parent)


def test_an_unsupported_architecture_is_refused_with_the_supported_ones(
    clip_folder: Path,
) -> None:
    with pytest.raises(WeightsError, match="of type 'clip'") as refusal:
        load(clip_folder)

    for backbone in BACKBONES:
        assert backbone.title in refusal.value.repair


def test_every_backbone_has_a_tiny_one_that_is_tested() -> None:
    assert {types[0] for types in (b.model_types for b in BACKBONES)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resolution_that_splits_a_patch_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a multiple of the 4 pixels") as refusal:
        load(write_tiny_backbone(tmp_path, kind), 33)

    assert "set it to 32" in refusal.value.repair


@pytest.mark.parametrize("part", ["vision_config", ""])
def test_a_siglip_loads_with_its_text_half_and_without(part: str, tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path, "siglip")
    expected = load(folder).tokens(some_images())
    if part:
        SiglipVisionModel.from_pretrained(folder).save_pretrained(folder)

    assert torch.equal(load(folder).tokens(some_images()), expected)


@pytest.mark.parametrize(("resample", "name"), [(2, "bilinear"), (3, "bicubic")])
def test_images_are_resized_as_the_model_was_trained(
    resample: int, name: str, tmp_path: Path
) -> None:
    folder = write_tiny_backbone(tmp_path, "dinov2")
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"resample": resample}))

    assert load(folder)._preprocessing.interpolation == name


def test_an_unsupported_interpolation_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path, "dinov2")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resample": 0}))

    with pytest.raises(WeightsError, match="resample 0"):
        load(folder)


def test_without_preprocessing_siglip_is_normalized_as_its_authors_do(tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path, "siglip")
    (folder / "preprocessor_config.json").unlink()

    assert load(folder)._preprocessing.mean == (0.5, 0.5, 0.5)
