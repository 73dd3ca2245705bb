import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from advgrpo.config import Weights
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.dino import DinoBackbone


def load(folder: Path) -> DinoBackbone:
    return DinoBackbone(
        Weights(location=str(folder)), resolution_pixels=16, device=torch.device("cpu")
    )


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_model_of_another_architecture_is_refused(clip_folder: Path) -> None:
    with pytest.raises(WeightsError, match="of type 'clip', not 'dinov2'"):
        load(clip_folder)


def test_a_configuration_that_is_not_json_is_refused(dino_folder: Path) -> None:
    (dino_folder / "config.json").write_text("{")

    with pytest.raises(WeightsError, match=r"config\.json"):
        load(dino_folder)


def test_a_truncated_file_is_refused(dino_folder: Path) -> None:
    path = dino_folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])

    with pytest.raises(WeightsError, match="cannot be loaded as Dinov2Model"):
        load(dino_folder)


def test_pickled_weights_are_never_read(dino_folder: Path) -> None:
    (dino_folder / "model.safetensors").unlink()
    torch.save({}, dino_folder / "pytorch_model.bin")

    with pytest.raises(WeightsError, match="pickled weights only"):
        load(dino_folder)


def test_a_folder_without_weights_is_refused(dino_folder: Path) -> None:
    (dino_folder / "model.safetensors").unlink()

    with pytest.raises(WeightsError, match="no weights"):
        load(dino_folder)


def test_a_missing_tensor_is_not_filled_with_random_numbers(dino_folder: Path) -> None:
    path = dino_folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["layernorm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(WeightsError, match=r"layernorm\.weight"):
        load(dino_folder)


def test_a_tensor_of_another_shape_is_refused(dino_folder: Path) -> None:
    path = dino_folder / "config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"mlp_ratio": 2}))

    with pytest.raises(WeightsError):
        load(dino_folder)


def test_weights_in_half_precision_are_used_in_float32(dino_folder: Path) -> None:
    path = dino_folder / "model.safetensors"
    halved = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(halved, path, metadata={"format": "pt"})

    assert load(dino_folder).tokens(torch.zeros(1, 3, 16, 16)).dtype == torch.float32
