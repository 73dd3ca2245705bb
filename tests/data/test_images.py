import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from advgrpo.data import picture_files
from advgrpo.data.images import (
    decode_image,
    encode_png,
    encode_webp,
    from_numpy,
    from_pil,
    from_uint8,
    image_grid,
    read_image,
    to_numpy,
    to_pil,
    to_uint8,
)
from advgrpo.errors import ReferenceImageError, StorageNotFoundError


def noise(side: int = 8, seed: int = 0) -> Tensor:
    """An image of 8-bit levels."""
    generator = torch.Generator().manual_seed(seed)
    return from_uint8(torch.randint(256, (3, side, side), generator=generator, dtype=torch.uint8))


def saved(picture: Image.Image, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format)
    return buffer.getvalue()


def test_every_8_bit_level_survives_a_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, 16, 16)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)


def test_floats_round_to_the_nearest_level_and_halves_to_even() -> None:
    values = torch.tensor([0.0, 0.4, 0.6, 0.5, 1.5, 254.4, 254.6, 255.0]) / 255
    levels = to_uint8(values.reshape(1, 1, 8).expand(3, 1, 8))[0, 0]
    assert levels.tolist() == [0, 0, 1, 0, 2, 254, 255, 255]


@pytest.mark.parametrize("value", [-1e-6, 1.0001, float("nan"), float("inf")])
def test_values_outside_the_range_are_refused(value: float) -> None:
    image = torch.zeros(3, 4, 4)
    image[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        to_uint8(image)


def test_half_precision_images_are_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16, not float32"):
        to_uint8(torch.zeros(3, 4, 4, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "there_and_back",
    [
        lambda image: from_numpy(to_numpy(image)),
        lambda image: from_pil(to_pil(image)),
        lambda image: decode_image(encode_png(image)),
        lambda image: decode_image(encode_png(image, {"prompt": "über 一"})),
    ],
)
def test_conversions_survive_a_round_trip(
    there_and_back: Callable[[Tensor], Tensor],
) -> None:
    image = noise()
    assert torch.equal(there_and_back(image), image)


def test_rows_columns_and_channels_keep_their_positions() -> None:
    image = torch.zeros(3, 2, 5)
    image[2, 1, 4] = 1.0
    array = to_numpy(image)
    assert array.shape == (2, 5, 3)
    assert array[1, 4].tolist() == [0, 0, 255]
    assert to_pil(image).getpixel((4, 1)) == (0, 0, 255)


def test_a_png_keeps_its_metadata_and_is_deterministic() -> None:
    image, metadata = noise(), {"prompt": "一只猫", "seed": "7"}
    data = encode_png(image, metadata)
    assert data == encode_png(image, metadata)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info == metadata


def test_an_image_file_is_read_at_its_resolution(tmp_path: Path) -> None:
    path, image = tmp_path / "a.png", noise()
    path.write_bytes(encode_png(image))
    assert torch.equal(read_image(path, 8), image)
    with pytest.raises(ReferenceImageError, match=r"a\.png is 8 x 8 pixels, not 16 squared"):
        read_image(path, 16)


def test_a_missing_image_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageNotFoundError, match=r"a\.png"):
        read_image(tmp_path / "a.png", 8)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_anywhere_is_refused(file_format: str) -> None:
    data = saved(to_pil(noise(24)), file_format)
    decode_image(data)
    for length in {0, 1, 10, 30, 60, len(data) // 2, len(data) - 40, len(data) - 12}:
        with pytest.raises(ValueError, match=r"truncated|damaged|is no"):
            decode_image(data[:length])


def test_a_png_without_any_one_byte_is_refused() -> None:
    data = encode_png(noise(4))
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"truncated|damaged|is no"):
            decode_image(data[:length])


def test_no_flipped_bit_of_a_png_changes_the_image_silently() -> None:
    image = noise(4)
    data = encode_png(image)
    refused = 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1
        try:
            assert torch.equal(decode_image(bytes(flipped)), image)
        except ValueError:
            refused += 1
    # The four bytes that give the length of the empty last part have no meaning.
    assert refused == len(data) - 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_transparency_palettes_and_greyscale_are_refused(mode: str) -> None:
    data = saved(Image.new(mode, (8, 8)))
    with pytest.raises(ValueError, match=f"has mode {mode}, not RGB"):
        decode_image(data)


def test_more_than_eight_bits_per_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="has 16 bits per channel, not 8"):
        decode_image(saved(Image.new("I;16", (8, 8))))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_an_animation_is_refused(file_format: str) -> None:
    first, second = to_pil(noise()), to_pil(noise(seed=1))
    buffer = io.BytesIO()
    first.save(buffer, format=file_format, save_all=True, append_images=[second])
    with pytest.raises(ValueError, match="is animated"):
        decode_image(buffer.getvalue())


@pytest.mark.parametrize("side", [8193, 2**15])
def test_a_file_that_declares_a_huge_size_is_refused_by_its_header(side: int) -> None:
    data = bytearray(encode_png(noise()))
    data[16:24] = side.to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    with pytest.raises(ValueError, match="pixels"):
        decode_image(bytes(data))


def test_webp_is_lossless_and_deterministic() -> None:
    image = noise(24)
    data = encode_webp(image)
    assert data == encode_webp(image)
    assert torch.equal(decode_image(data), image)


def test_other_kinds_of_files_are_refused() -> None:
    for data in (b"<html>", saved(Image.new("RGB", (8, 8)), "BMP")):
        with pytest.raises(ValueError, match="is not a PNG, JPEG, WEBP file"):
            decode_image(data)


def test_a_grid_arranges_images_in_rows_on_white() -> None:
    images = torch.stack([torch.full((3, 4, 4), value / 255) for value in (10, 20, 30)])
    grid = image_grid(images, columns=2, gap_pixels=1)
    assert grid.shape == (3, 11, 11)
    levels = to_uint8(grid)[0]
    assert set(levels[1:5, 1:5].flatten().tolist()) == {10}
    assert set(levels[1:5, 6:10].flatten().tolist()) == {20}
    assert set(levels[6:10, 1:5].flatten().tolist()) == {30}
    assert set(levels[6:, 6:].flatten().tolist()) == {255}
    assert set(levels[5].flatten().tolist()) == {255}


def test_a_grid_upscales_by_integer_factors() -> None:
    image = noise(4)
    grid = image_grid(image[None], columns=3, scale=2, gap_pixels=0)
    assert torch.equal(grid, image.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_a_grid_needs_images() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        image_grid(torch.ones(0, 3, 4, 4), columns=1)


def _png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8193, 10_000, 60_000])
def test_a_small_file_that_declares_a_huge_size_is_not_decoded(side: int, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(_png_of_size(side, side))
    with pytest.raises(ReferenceImageError, match=r"bomb\.png declares .* pixels"):
        read_image(tmp_path / "bomb.png", 32)


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "LARGEST_FILE_BYTES", 100)
    (tmp_path / "large.png").write_bytes(_png_of_size(32, 32) + bytes(100))
    with pytest.raises(ReferenceImageError, match=r"large\.png has more than 100 bytes"):
        read_image(tmp_path / "large.png", 32)
