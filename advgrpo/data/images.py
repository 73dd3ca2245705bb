"""Conversions between images of models and image files.

Models use float32 RGB in [0, 1], `[3, height, width]`; files have 8 bits per channel. A float is
rounded to the nearest of 256 levels (`round(255 x)`, halves to even), a level is read as
`level / 255`, so 8-bit images are unchanged by a round trip. No other code converts images.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from advgrpo.data import picture_files
from advgrpo.data.picture_files import decode_picture
from advgrpo.errors import ReferenceImageError
from advgrpo.storage.files import read_bytes
from advgrpo.storage.local import disk_errors
from advgrpo.storage.locations import scheme


def to_uint8(
    images: Float[Tensor, "*batch 3 height width"],
) -> UInt8[Tensor, "*batch 3 height width"]:
    """Round images to 8 bits per channel.

    Args:
        images: RGB in [0, 1], float32.

    Returns:
        The nearest levels, 0 to 255.

    Raises:
        ValueError: If the images are not float32, or a value is outside [0, 1] or not finite.
    """
    if images.dtype != torch.float32:
        raise ValueError(f"images are {images.dtype}, not float32")
    # Negated, because NaN compares false with everything.
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("image values are outside [0, 1] or not finite")
    # `to(uint8)` alone would truncate.
    return (images * 255).round().to(torch.uint8)


def from_uint8(
    levels: UInt8[Tensor, "*batch 3 height width"],
) -> Float[Tensor, "*batch 3 height width"]:
    """Convert 8-bit levels to float32 in [0, 1].

    Raises:
        ValueError: If the levels are not uint8.
    """
    if levels.dtype != torch.uint8:
        raise ValueError(f"levels are {levels.dtype}, not uint8")
    # By division: multiplying by a rounded 1/255 gives other last bits.
    return levels.to(torch.float32) / 255


def to_numpy(image: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Round an image to 8 bits per channel, channels last."""
    return to_uint8(image).permute(1, 2, 0).contiguous().cpu().numpy()


def from_numpy(levels: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "3 height width"]:
    """Convert 8-bit levels, channels last, to an image."""
    # A copy, because arrays of PIL pictures are read-only.
    return from_uint8(torch.from_numpy(levels.copy()).permute(2, 0, 1).contiguous())


def to_pil(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """Convert an image to a PIL picture of mode RGB."""
    return Image.fromarray(to_numpy(image))


def from_pil(picture: Image.Image) -> Float[Tensor, "3 height width"]:
    """Convert a PIL picture to an image.

    Raises:
        ValueError: If the mode is not RGB: how to drop an alpha channel would be a guess.
    """
    if picture.mode != "RGB":
        raise ValueError(f"the picture has mode {picture.mode}, not RGB")
    return from_numpy(np.asarray(picture))


def encode_png(
    image: Float[Tensor, "3 height width"], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Encode an image as PNG.

    Args:
        image: RGB in [0, 1].
        metadata: Text metadata of the file, by keyword (1 to 79 Latin-1 characters).

    Returns:
        The file's content; equal for equal arguments.
    """
    info = PngInfo()
    for keyword, text in (metadata or {}).items():
        # Not add_text, which uses Latin-1 where it can.
        info.add_itxt(keyword, text)
    buffer = io.BytesIO()
    # Level 1 is several times faster than the default; files are a few percent larger.
    to_pil(image).save(buffer, format="PNG", compress_level=1, pnginfo=info)
    return buffer.getvalue()


def encode_webp(image: Float[Tensor, "3 height width"]) -> bytes:
    """Encode an image as lossless WebP, which is smaller than PNG.

    Args:
        image: RGB in [0, 1].

    Returns:
        The file's content; equal for equal images.
    """
    buffer = io.BytesIO()
    # For lossless files, `quality` is the compression effort.
    to_pil(image).save(buffer, format="WEBP", lossless=True, quality=25, method=1)
    return buffer.getvalue()


def decode_image(data: bytes) -> Float[Tensor, "3 height width"]:
    """Decode an untrusted image file.

    Args:
        data: Content of a PNG, JPEG or WebP file.

    Returns:
        Upright, in sRGB, in [0, 1].

    Raises:
        ValueError: As `decode_file`.
    """
    return from_pil(decode_picture(data))


def read_image(location: str | Path, resolution_pixels: int) -> Float[Tensor, "3 height width"]:
    """Read an image file.

    Args:
        location: A PNG, JPEG or WebP file; a local path or `s3://bucket/key`.
        resolution_pixels: Required height and width.

    Returns:
        RGB in [0, 1].

    Raises:
        ReferenceImageError: If the file is truncated, damaged, not RGB or of another size.
        StorageError: If the file does not exist or cannot be read.
    """
    data = _read(str(location))
    try:
        image = decode_image(data)
        height, width = image.shape[1:]
        if (height, width) != (resolution_pixels, resolution_pixels):
            raise ValueError(f"is {width} x {height} pixels, not {resolution_pixels} squared")
    except ValueError as error:
        raise ReferenceImageError(
            f"image {location} {error}",
            repair="run `advgrpo reference-images validate` to list all damaged files of the set",
        ) from error
    return image


def _read(location: str) -> bytes:
    # S3 objects are read whole; `decode_picture` checks their size afterwards.
    if scheme(location):
        return read_bytes(location)
    path = Path(location)
    with disk_errors("read", path), path.open("rb") as file:
        # One byte more than the limit is enough to refuse the file.
        return file.read(picture_files.LARGEST_FILE_BYTES + 1)


def image_grid(
    images: Float[Tensor, "batch 3 height width"],
    columns: int,
    *,
    scale: int = 1,
    gap_pixels: int = 2,
) -> Float[Tensor, "3 grid_height grid_width"]:
    """Arrange images in a grid on white.

    Args:
        images: RGB in [0, 1], row by row.
        columns: Images per row.
        scale: Integer factor by which pixels are repeated.
        gap_pixels: Width of the white space between and around images.

    Returns:
        RGB in [0, 1].

    Raises:
        ValueError: If there are no images or columns.
    """
    count, _, height, width = images.shape
    if count == 0 or columns < 1 or scale < 1:
        raise ValueError("a grid needs at least one image, one column and a scale of 1")
    height, width = height * scale, width * scale
    row_height, column_width = height + gap_pixels, width + gap_pixels
    rows, columns = -(-count // columns), min(columns, count)
    grid = Image.new(
        "RGB", (columns * column_width + gap_pixels, rows * row_height + gap_pixels), "white"
    )
    for i, image in enumerate(images):
        left = gap_pixels + i % columns * column_width
        top = gap_pixels + i // columns * row_height
        grid.paste(to_pil(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
    return from_pil(grid)
