"""Decoding of untrusted image files to upright pictures in sRGB.

Every reader of image files uses this module, so that all see what a viewer shows.
"""

import io
import struct
import warnings
import zlib
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

FILE_FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats for reading. Only PNG and lossless WebP are written."""

FILE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp"})
LARGEST_FILE_BYTES = 64 * 2**20
"""Larger files are refused: images of models have a few megabytes."""

MOST_PIXELS = 2**26
"""Limit for reading, 8192 x 8192: a small file may declare a huge image."""

TURNED = "turned as the EXIF orientation says"
CONVERTED = "converted from an embedded color profile to sRGB"

_DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error),
    # Pillow does not catch these itself, for instance for a PNG without pixels.
    *(LookupError, TypeError, ArithmeticError),
)
"""Exceptions of Pillow for damaged files."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24
"""Offset of the byte with the bits per channel."""

_PNG_END = b"IEND\xae\x42\x60\x82"
_SRGB_CODE = bytes((1, 13, 0, 1))
"""Content of a PNG's chunk cICP for sRGB: BT.709 primaries, sRGB transfer, RGB, full range."""

_SRGB_GAMMA = 1 / 2.2
# Of white, red, green and blue, in the order of a PNG's chunk cHRM.
_SRGB_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_TOLERANCE = 0.01
"""Writers of PNG round gamma and chromaticity."""

_ADOBE_RGB_INDEX = "R03"
"""EXIF interoperability index of files in Adobe RGB."""

_ADOBE_RGB_SPACE = 2
"""EXIF color space of files in Adobe RGB, by some cameras."""

_SAME_LEVELS = 2
"""Profiles of sRGB differ in rounding by up to so many of 256 levels."""


class DecodedFile(NamedTuple):
    """An image file's picture."""

    picture: Image.Image
    """Mode RGB, upright, in sRGB."""

    changes: tuple[str, ...]
    """What was done to the stored pixels: `TURNED`, `CONVERTED`."""


def decode_picture(data: bytes) -> Image.Image:
    """Decode an image file; see `decode_file`."""
    return decode_file(data).picture


def decode_file(data: bytes) -> DecodedFile:
    """Decode an untrusted image file to 8 bits per channel.

    Args:
        data: Content of a PNG, JPEG or WebP file.

    Raises:
        ValueError: If the content is truncated, damaged, not RGB with 8 bits per channel, animated,
            in colors that cannot be converted, or larger than `MOST_PIXELS` or
            `LARGEST_FILE_BYTES`. The message continues a sentence that starts with the file's name.
    """
    if not data:
        raise ValueError("is truncated: it has no bytes")
    # Before Pillow sees the data, which is untrusted.
    if len(data) > LARGEST_FILE_BYTES:
        raise ValueError(f"has more than {LARGEST_FILE_BYTES} bytes")
    if data.startswith(_PNG_START) and _PNG_END not in data:
        # Pillow accepts a PNG without its last bytes.
        raise ValueError("is truncated")
    try:
        with warnings.catch_warnings():
            # Our own limit, below, raises an error instead. Pillow also warns of damaged EXIF data,
            # which viewers ignore.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FILE_FORMATS) as picture:
                _check_header(data, picture)
                # Checks the checksums of all chunks. The picture must be reopened afterwards.
                picture.verify()
            with Image.open(io.BytesIO(data), formats=FILE_FORMATS) as picture:
                picture.load()
                return as_shown(picture, data)
    # A subclass of OSError, so it must precede `_DAMAGE`, too.
    except UnidentifiedImageError as error:
        raise ValueError(
            f"is not a {', '.join(FILE_FORMATS)} file, or its start is damaged"
        ) from error
    # Pillow raises it above twice its own limit, already when it opens the file.
    except Image.DecompressionBombError as error:
        raise ValueError(f"declares more than {MOST_PIXELS} pixels") from error
    # Before `_DAMAGE`, which has its base class ValueError and would call an intact file damaged.
    except _UnusableError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"is truncated or damaged ({error})") from error


class _UnusableError(ValueError):
    """An intact file with an unsupported image."""


def _check_header(data: bytes, picture: Image.Image) -> None:
    """Check the header of a file before its pixels are decoded."""
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise _UnusableError(f"declares {width} x {height} pixels, more than {MOST_PIXELS}")
    # The further pictures of an MPO file, which phones and cameras write, are previews or another
    # eye's view; viewers show the first.
    if picture.format != "MPO":
        # Seeking is the check for a second frame; EOFError is the good case.
        with suppress(EOFError):
            picture.seek(1)
            raise _UnusableError("is animated")
    # Pillow opens a PNG of 16 bits as mode RGB, so the mode does not show it.
    depth = data[_PNG_DEPTH] if picture.format == "PNG" else 8
    if depth > 8:
        # Pillow would silently drop the lower bits.
        raise _UnusableError(f"has {depth} bits per channel, not 8")
    if picture.mode != "RGB":
        raise _UnusableError(f"has mode {picture.mode}, not RGB")
    if "transparency" in picture.info:
        raise _UnusableError("has a transparent color")


def as_shown(picture: Image.Image, data: bytes = b"") -> DecodedFile:
    """Turn a picture and convert its colors as a viewer does.

    Args:
        picture: Mode RGB.
        data: Its file, if there is one.

    Raises:
        ValueError: If its colors cannot be converted.
    """
    changes = []
    upright = ImageOps.exif_transpose(picture)
    if picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        changes.append(TURNED)
    if profile := picture.info.get("icc_profile"):
        transform = _to_srgb(profile)
        if transform is not None:
            upright = transform.apply(upright)
            changes.append(CONVERTED)
    else:
        _refuse_other_colors(data, picture)
    return DecodedFile(upright, tuple(changes))


# Files of one source share a profile, and building a transform takes longer than applying it.
@lru_cache(maxsize=8)
def _to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a profile's colors to sRGB; None if they are sRGB already."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != "RGB":
            raise _UnusableError(f"has a color profile for {space}, not RGB")
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        shown = np.asarray(transform.apply(Image.fromarray(grid)))
    except (ImageCms.PyCMSError, OSError) as error:
        raise _UnusableError(f"has a color profile that cannot be read ({error})") from error
    difference = np.abs(shown.astype(int) - grid.astype(int)).max()
    return None if difference <= _SAME_LEVELS else transform


def _refuse_other_colors(data: bytes, picture: Image.Image) -> None:
    """Raise an error if a file without a profile declares other colors than sRGB."""
    exif = picture.getexif()
    index = str(exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex, ""))
    space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
    if index.startswith(_ADOBE_RGB_INDEX) or space == _ADOBE_RGB_SPACE:
        raise _UnusableError(
            "is in Adobe RGB, by its EXIF data, without a color profile: embed one, or convert it"
        )
    if picture.format != "PNG":
        return
    header = data[: data.find(b"IDAT")]
    place = header.find(b"cICP")
    if place >= 0 and header[place + 4 : place + 8] != _SRGB_CODE:
        raise _UnusableError("declares colors other than sRGB (cICP): convert it")
    if place >= 0 or "srgb" in picture.info:
        return
    gamma, points = picture.info.get("gamma"), picture.info.get("chromaticity")
    if gamma is not None and abs(gamma - _SRGB_GAMMA) > _TOLERANCE:
        raise _UnusableError(f"declares gamma {gamma:g} (gAMA) without a color profile: convert it")
    if points is not None and not np.allclose(points, _SRGB_CHROMATICITY, rtol=0, atol=_TOLERANCE):
        raise _UnusableError(
            "declares primaries other than sRGB's (cHRM) without a color profile: convert it"
        )
