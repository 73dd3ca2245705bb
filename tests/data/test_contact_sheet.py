import numpy as np
import pytest
from PIL import Image

from advgrpo.data.contact_sheet import Band, contact_sheet


def picture(colour: str, side: int = 32) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def ink(sheet: Image.Image, box: tuple[int, int, int, int]) -> int:
    """Dark pixels in a part of a sheet."""
    return int((np.asarray(sheet.crop(box)).max(axis=2) < 128).sum())


def test_small_pictures_are_upscaled_and_keep_their_positions() -> None:
    sheet = contact_sheet([Band([[picture("red"), picture("lime")]], ["", ""])])
    assert sheet.getpixel((8, 8)) == (255, 0, 0)
    assert sheet.getpixel((8 + 191, 8 + 191)) == (255, 0, 0)
    assert sheet.getpixel((8 + 192 + 8, 8)) == (0, 255, 0)
    assert sheet.getpixel((8 + 192 + 4, 8)) == (255, 255, 255)


def test_large_pictures_are_downscaled() -> None:
    sheet = contact_sheet([Band([[picture("red", 1024)]], [""])])
    assert sheet.width == 384 + 2 * 8


def test_a_long_caption_is_wrapped_below_its_picture() -> None:
    words = "a small red circle on a white background in the center of a wooden table at noon"
    short, long = (contact_sheet([Band([[picture("red")] * 2], ["", t])]) for t in ("a", words))
    assert long.height > short.height + 2 * 12
    assert ink(long, (0, 204, 200, long.height)) == 0
    assert ink(long, (208, 204, 400, long.height)) > 500
    assert ink(long, (400, 0, long.width, long.height)) == 0
    assert ink(long, (0, long.height - 6, long.width, long.height)) == 0


def test_a_word_wider_than_a_line_is_split() -> None:
    sheet = contact_sheet([Band([[picture("red")]], ["x" * 100])])
    assert ink(sheet, (200, 0, sheet.width, sheet.height)) == 0
    assert ink(sheet, (8, 204, 200, sheet.height)) > 200


def test_rows_are_labelled_to_their_left() -> None:
    band = Band([[picture("red")], [picture("blue")]], ["a cat"], ("base", "adapter"))
    sheet = contact_sheet([band, band])
    left = sheet.width - 192 - 2 * 8
    assert left > 40
    for top in (8, 208):
        assert ink(sheet, (0, top, left, top + 192)) > 30
    assert sheet.getpixel((sheet.width - 20, 250)) == (0, 0, 255)


def test_a_caption_with_missing_glyphs_is_replaced_by_a_note() -> None:
    chinese, other = (
        contact_sheet([Band([[picture("red")]], [text])]) for text in ("一只猫", "二只狗和一只鸟")
    )
    assert chinese.tobytes() == other.tobytes()


def test_a_very_long_caption_is_truncated() -> None:
    sheet = contact_sheet([Band([[picture("red")]], ["word " * 100_000])])
    assert sheet.height < 192 + 20 * 20


def test_a_sheet_needs_a_picture() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
