"""The only conversions between images as the models see them and images as files hold them.

Models see float32 RGB in [0, 1], `[3, height, width]`; files hold 8 bits a channel. A float becomes
the nearest of the 256 levels (`round(255 x)`, halves to even), a level becomes `level / 255`, so
whatever was 8 bit once comes back unchanged.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from advgrpo.errors import ReferenceImageError
from advgrpo.storage import read_bytes, scheme
from advgrpo.storage.local import disk_errors

FILE_FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats that are read; PNG and lossless WebP are written."""

FILE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp"})

LARGEST_FILE_BYTES = 64 * 2**20
"""Larger files are not decoded: an image of a model is a few megabytes."""

MOST_PIXELS = 2**26
"""Largest image that is read, as 8192 x 8192: a small file may claim to hold a huge one."""

_DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error),
    # What Pillow stumbles over where it does not look, as in a PNG without pixels.
    *(LookupError, TypeError, ArithmeticError),
)
"""What Pillow raises for a damaged file."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24
"""Place of the byte that gives the bits a channel."""

_PNG_END = b"IEND\xae\x42\x60\x82"


def to_uint8(
    images: Float[Tensor, "*batch 3 height width"],
) -> UInt8[Tensor, "*batch 3 height width"]:
    """Round images to 8 bits a channel.

    Args:
        images: RGB in [0, 1], float32.

    Returns:
        The nearest levels, 0 to 255.

    Raises:
        ValueError: If the images are not float32, or hold a value outside [0, 1] or not finite.
    """
    if images.dtype != torch.float32:
        raise ValueError(f"images are {images.dtype}, not float32")
    # Written so that NaN, which compares false with everything, is refused too.
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images hold values outside [0, 1] or values that are not finite")
    return (images * 255).round().to(torch.uint8)


def from_uint8(
    levels: UInt8[Tensor, "*batch 3 height width"],
) -> Float[Tensor, "*batch 3 height width"]:
    """Turn 8-bit levels into float32 in [0, 1].

    Raises:
        ValueError: If the levels are not 8 bit.
    """
    if levels.dtype != torch.uint8:
        raise ValueError(f"levels are {levels.dtype}, not uint8")
    return levels.to(torch.float32) / 255


def to_numpy(image: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Round an image to 8 bits and put the channels last, as pictures are kept elsewhere."""
    return to_uint8(image).permute(1, 2, 0).contiguous().cpu().numpy()


def from_numpy(levels: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "3 height width"]:
    """Turn 8-bit levels with the channels last into an image."""
    return from_uint8(torch.from_numpy(levels.copy()).permute(2, 0, 1).contiguous())


def to_pil(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """Turn an image into a PIL picture of mode RGB."""
    return Image.fromarray(to_numpy(image))


def from_pil(picture: Image.Image) -> Float[Tensor, "3 height width"]:
    """Turn a PIL picture into an image.

    Raises:
        ValueError: If the picture is not of mode RGB; transparency or a palette is never guessed.
    """
    if picture.mode != "RGB":
        raise ValueError(f"the picture is of mode {picture.mode}, not RGB")
    return from_numpy(np.asarray(picture))


def encode_png(
    image: Float[Tensor, "3 height width"], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Encode an image as PNG.

    Args:
        image: RGB in [0, 1].
        metadata: Texts to keep in the file, by keyword (1 to 79 Latin-1 characters).

    Returns:
        The file's content; equal for equal arguments.
    """
    info = PngInfo()
    for keyword, text in (metadata or {}).items():
        info.add_itxt(keyword, text)
    buffer = io.BytesIO()
    # Level 1 is several times faster than the default and costs a few percent in size.
    to_pil(image).save(buffer, format="PNG", compress_level=1, pnginfo=info)
    return buffer.getvalue()


def encode_webp(image: Float[Tensor, "3 height width"]) -> bytes:
    """Encode an image as lossless WebP: smaller than PNG.

    Args:
        image: RGB in [0, 1].

    Returns:
        The file's content; equal for equal images.
    """
    buffer = io.BytesIO()
    # Of a lossless file, `quality` is the effort.
    to_pil(image).save(buffer, format="WEBP", lossless=True, quality=25, method=1)
    return buffer.getvalue()


def decode_image(data: bytes) -> Float[Tensor, "3 height width"]:
    """Decode the content of an image file, and trust nothing about it.

    Args:
        data: Content of a PNG, JPEG or WebP file.

    Returns:
        RGB in [0, 1].

    Raises:
        ValueError: If the content is truncated, damaged, not RGB with 8 bits a channel, animated or
            larger than `MOST_PIXELS` or `LARGEST_FILE_BYTES`. The message says which, to be put
            after the name of the file.
    """
    return from_pil(decode_picture(data))


def decode_picture(data: bytes) -> Image.Image:
    """Decode an image file as `decode_image` does, but leave it at 8 bits a channel."""
    if not data:
        raise ValueError("is truncated: it has no bytes")
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"has more than {LARGEST_FILE_BYTES} bytes")
    if data.startswith(_PNG_START) and _PNG_END not in data:
        # Pillow does not miss the last bytes of a PNG.
        raise ValueError("is truncated")
    try:
        with warnings.catch_warnings():
            # Of sizes that we refuse ourselves.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FILE_FORMATS) as picture:
                _refuse_unlike_a_picture(data, picture)
                # Checks the sums of all parts, and leaves the picture unusable.
                picture.verify()
            with Image.open(io.BytesIO(data), formats=FILE_FORMATS) as picture:
                picture.load()
    except UnidentifiedImageError as error:
        raise ValueError(
            f"is no {', '.join(FILE_FORMATS)} file, or its start is damaged"
        ) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"claims more than the {MOST_PIXELS} pixels that are read") from error
    except _UnusableError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"is truncated or damaged ({error})") from error
    return picture


class _UnusableError(ValueError):
    """A file is whole, but no image that is read."""


def _refuse_unlike_a_picture(data: bytes, picture: Image.Image) -> None:
    """Judge a file by its header, before its pixels take memory."""
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise _UnusableError(
            f"claims {width} x {height} pixels, more than the {MOST_PIXELS} that are read"
        )
    with suppress(EOFError):
        picture.seek(1)
        raise _UnusableError("is animated")
    depth = data[_PNG_DEPTH] if picture.format == "PNG" else 8
    if depth > 8:
        # Pillow would cut the lower bits off.
        raise _UnusableError(f"has {depth} bits a channel, not 8")
    if picture.mode != "RGB":
        raise _UnusableError(f"is of mode {picture.mode}, not RGB")


def read_image(location: str | Path, resolution_pixels: int) -> Float[Tensor, "3 height width"]:
    """Read an image file.

    Args:
        location: A PNG, JPEG or WebP file; a local path or `s3://bucket/key`.
        resolution_pixels: Height and width that it must have.

    Returns:
        RGB in [0, 1].

    Raises:
        ReferenceImageError: If the file is truncated, damaged, not RGB or of another size.
        StorageError: If the file is missing or cannot be read.
    """
    data = _content(str(location))
    try:
        image = decode_image(data)
        height, width = image.shape[1:]
        if (height, width) != (resolution_pixels, resolution_pixels):
            raise ValueError(f"is {width} x {height} pixels, not {resolution_pixels} squared")
    except ValueError as error:
        raise ReferenceImageError(
            f"image {location} {error}",
            repair="`advgrpo reference-images validate` lists all damaged files of a set",
        ) from error
    return image


def _content(location: str) -> bytes:
    if scheme(location):
        return read_bytes(location)
    path = Path(location)
    with disk_errors("read", path), path.open("rb") as file:
        # One byte more than an image may have: enough to refuse it.
        return file.read(LARGEST_FILE_BYTES + 1)


def image_grid(
    images: Float[Tensor, "batch 3 height width"],
    columns: int,
    *,
    scale: int = 1,
    gap_pixels: int = 2,
) -> Float[Tensor, "3 grid_height grid_width"]:
    """Lay images out in rows on white.

    Args:
        images: RGB in [0, 1], row by row.
        columns: Images of a row.
        scale: Whole number of pixels that each pixel becomes.
        gap_pixels: White between images, and around them.

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
