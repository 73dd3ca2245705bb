import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from advgrpo.data.images import decode_image, to_numpy
from advgrpo.data.picture_files import CONVERTED, TURNED, decode_file

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    # The stored picture is turned the other way round than the viewer turns it.
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
# Primaries of Adobe RGB and of sRGB, adapted to D50, as their profiles give them.
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))


def colors(height: int = 16, width: int = 24) -> Image.Image:
    levels = np.zeros((height, width, 3), np.uint8)
    levels[: height // 2, : width // 2] = (200, 40, 40)
    levels[: height // 2, width // 2 :] = (40, 180, 60)
    levels[height // 2 :, : width // 2] = (50, 60, 200)
    levels[height // 2 :, width // 2 :] = (128, 128, 128)
    return Image.fromarray(levels)


def saved(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **LOSSLESS.get(file_format, {}), **options)
    return buffer.getvalue()


def difference(data: bytes, expected: Image.Image) -> int:
    found = to_numpy(decode_image(data))
    return int(np.abs(found.astype(int) - np.asarray(expected).astype(int)).max())


def profile(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """Build a minimal ICC profile of three primaries and a gamma."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    white = (0.9642, 1.0, 0.8249)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79,
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": xyz(white),
        **{name + b"XYZ": xyz(primaries[n]) for n, name in enumerate((b"r", b"g", b"b"))},
        **{name + b"TRC": curve for name in (b"r", b"g", b"b")},
    }
    table, body = struct.pack(">I", len(tags)), b""
    offset = 132 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", offset + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s", offset + len(body), 0x02200000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, white))
    return head.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("file_format", LOSSLESS)
@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_turned_as_its_orientation_says(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(colors().transpose(TURNS[orientation]), file_format, exif=exif)
    assert difference(data, colors()) < 8
    assert decode_file(data).changes == (TURNED,)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_without_meaning_changes_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(colors(), exif=exif)
    assert difference(data, colors()) == 0
    assert decode_file(data).changes == ()


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_colors_of_another_profile_are_converted_to_srgb(file_format: str) -> None:
    icc = profile(ADOBE, 2.2)
    adobe = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    stored = ImageCms.profileToProfile(colors(), ImageCms.createProfile("sRGB"), adobe)
    assert stored is not None
    data = saved(stored, file_format, icc_profile=icc)
    assert difference(data, colors()) < 5
    assert difference(saved(stored, file_format, icc_profile=None), colors()) > 30
    assert decode_file(data).changes == (CONVERTED,)


def test_pixels_of_an_srgb_profile_are_not_changed() -> None:
    for icc in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),):
        data = saved(colors(), icc_profile=icc)
        assert difference(data, colors()) == 0
        assert decode_file(data).changes == ()


@pytest.mark.parametrize(
    ("icc", "message"),
    [
        (b"not a profile", "has a color profile that cannot be read"),
        (profile(SRGB, 2.2).replace(b"RGB XYZ ", b"GRAYXYZ "), "for GRAY, not RGB"),
        (profile(SRGB, 2.2)[:200], "has a color profile that cannot be read"),
    ],
)
def test_a_profile_that_cannot_be_applied_is_refused(icc: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_file(saved(colors(), icc_profile=icc))


def test_the_first_picture_of_a_phones_file_is_read() -> None:
    others, options = [colors().rotate(180)], LOSSLESS["JPEG"]
    data = saved(colors(), "MPO", save_all=True, append_images=others, **options)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "MPO"
    assert difference(data, colors()) < 8
    assert decode_file(data).changes == ()


def test_a_transparent_color_is_refused() -> None:
    with pytest.raises(ValueError, match="has a transparent color"):
        decode_file(saved(colors(), transparency=(128, 128, 128)))


def _interop(exif: Image.Exif) -> None:
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R03", 2: b"0100"}


def _space(exif: Image.Exif) -> None:
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 2


@pytest.mark.parametrize("mark", [_interop, _space])
@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_adobe_rgb_without_a_profile_is_refused(
    mark: Callable[[Image.Exif], None], file_format: str
) -> None:
    exif = Image.Exif()
    mark(exif)
    with pytest.raises(ValueError, match="is in Adobe RGB, by its EXIF data"):
        decode_file(saved(colors(), file_format, exif=exif))


def _with_chunk(kind: bytes, content: bytes) -> bytes:
    """Insert a chunk after the header of a PNG."""
    data, body = saved(colors()), kind + content
    chunk = struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (b"gAMA", struct.pack(">I", 45455), ""),
        (b"gAMA", struct.pack(">I", 100_000), r"declares gamma 1 \(gAMA\)"),
        (b"cHRM", struct.pack(">8I", *(round(v * 1e5) for v in CHROMATICITY)), ""),
        (b"cHRM", struct.pack(">8I", *(round(v * 9e4) for v in CHROMATICITY)), "cHRM"),
        (b"cICP", bytes((1, 13, 0, 1)), ""),
        (b"cICP", bytes((9, 16, 0, 1)), "other than sRGB \\(cICP\\)"),
    ],
)
def test_colors_that_a_png_declares_are_srgb_or_refused(
    kind: bytes, content: bytes, message: str
) -> None:
    data = _with_chunk(kind, content)
    if not message:
        assert difference(data, colors()) == 0
        return
    with pytest.raises(ValueError, match=message):
        decode_file(data)
