import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advgrpo.errors import WeightsError
from advgrpo.models.backbones.preprocessing import Preprocessing, read_preprocessing, resize


def picture_with_hard_edges(side: int) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(9 * x + 3 * y), np.cos(14 * y), (x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.1]
    return ((np.stack(waves, axis=-1).clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


@pytest.mark.parametrize(("side", "resolution"), [(64, 32), (32, 70), (100, 37)])
def test_resizing_agrees_with_pillow_to_a_grey_level(side: int, resolution: int) -> None:
    picture = picture_with_hard_edges(side)
    expected = np.asarray(
        Image.fromarray(picture).resize((resolution, resolution), Image.Resampling.BICUBIC)
    )
    images = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255

    resized = resize(images, resolution)

    difference = (resized[0].permute(1, 2, 0) * 255 - torch.from_numpy(expected.copy())).abs()
    assert difference.max() < 1.2
    assert difference.mean() < 0.5


def test_resizing_stays_in_range_where_the_interpolation_overshoots() -> None:
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 1.0

    resized = resize(edge, 45)

    assert resized.min() == 0.0
    assert resized.max() == 1.0


def test_images_of_the_right_size_keep_their_values() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    assert torch.equal(resize(images, 16), images)


def test_images_in_bfloat16_are_resized_in_float32() -> None:
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()

    assert torch.equal(resize(images, 24), resize(images.float(), 24))


def test_normalization_subtracts_the_mean_of_each_channel_and_divides() -> None:
    preprocessing = Preprocessing(2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))

    pixels = preprocessing(torch.full((1, 3, 2, 2), 0.6))

    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([1.0, 1.6, 1.5]))


def test_a_folder_without_preprocessor_file_has_no_preprocessing(tmp_path: Path) -> None:
    assert read_preprocessing(tmp_path, resolution_pixels=16) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"image_mean": [0.5, 0.5, 0.5]}),
        json.dumps({"image_mean": [0.5], "image_std": [0.5]}),
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.0, 0.5]}),
    ],
)
def test_a_damaged_preprocessor_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)

    with pytest.raises(WeightsError, match=r"preprocessor_config\.json"):
        read_preprocessing(tmp_path, resolution_pixels=16)
