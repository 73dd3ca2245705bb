"""Contact sheets: rows of pictures with legible captions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_LEAST_SIDE_PIXELS, _MOST_SIDE_PIXELS = 192, 384
_GAP_PIXELS = 8
_FONT_PIXELS = 13
_LINE_PIXELS = 17
_MOST_LINES = 14
_LONGEST_CAPTION = 1000
# The last code point, which is a noncharacter, so no font has a glyph for it.
_NO_CHARACTER = "\U0010ffff"
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Band:
    """Rows of pictures with shared columns."""

    rows: Sequence[Sequence[Image.Image]]
    captions: Sequence[str]
    """One per column, below it."""

    row_labels: Sequence[str] = ()
    """One per row, to its left; empty for none."""


def contact_sheet(bands: Sequence[Band]) -> Image.Image:
    """Stack bands on a white sheet.

    Small pictures are upscaled by repeating pixels, large ones downscaled. Captions are wrapped; a
    caption with characters that the font lacks is replaced by a note.

    Args:
        bands: At least one, with at least one picture. All pictures are squares of one size.

    Returns:
        A picture of mode RGB.

    Raises:
        ValueError: If there is no picture.
    """
    if not bands or not all(band.rows and band.rows[0] for band in bands):
        raise ValueError("a sheet needs at least one picture")
    # The font in Pillow: containers may have no other.
    font = ImageFont.load_default(_FONT_PIXELS)
    side = _display_side(bands[0].rows[0][0].width)
    labels = [label for band in bands for label in band.row_labels]
    margin = max((int(font.getlength(label)) + _GAP_PIXELS for label in labels), default=0)
    columns = max(len(row) for band in bands for row in band.rows)
    captions = [[_wrap(text, side, font) for text in band.captions] for band in bands]
    heights = [
        len(band.rows) * (side + _GAP_PIXELS) + _LINE_PIXELS * max(map(len, lines), default=0)
        for band, lines in zip(bands, captions, strict=True)
    ]
    width = margin + columns * (side + _GAP_PIXELS) + _GAP_PIXELS
    sheet = Image.new("RGB", (width, sum(heights) + (len(bands) + 1) * _GAP_PIXELS), "white")
    draw, top = ImageDraw.Draw(sheet), _GAP_PIXELS
    for band, lines, height in zip(bands, captions, heights, strict=True):
        for number, row in enumerate(band.rows):
            y = top + number * (side + _GAP_PIXELS)
            if band.row_labels:
                place = (_GAP_PIXELS, y + side // 2)
                draw.text(place, band.row_labels[number], fill="black", font=font, anchor="lm")
            # Not strict, because the columns are endless.
            for x, picture in zip(_columns(margin, side), row, strict=False):
                sheet.paste(_scale(picture, side), (x, y))
        below = top + len(band.rows) * (side + _GAP_PIXELS) - _GAP_PIXELS // 2
        for x, text in zip(_columns(margin, side), lines, strict=False):
            for number, line in enumerate(text):
                draw.text((x, below + number * _LINE_PIXELS), line, fill="black", font=font)
        top += height + _GAP_PIXELS
    return sheet


def _columns(margin: int, side: int) -> Iterator[int]:
    x = margin + _GAP_PIXELS
    while True:
        yield x
        x += side + _GAP_PIXELS


def _display_side(side: int) -> int:
    if side < _LEAST_SIDE_PIXELS:
        # An integer factor, so that all source pixels are enlarged equally.
        return side * -(-_LEAST_SIDE_PIXELS // side)
    return min(side, _MOST_SIDE_PIXELS)


def _scale(picture: Image.Image, side: int) -> Image.Image:
    enlarged = picture.width < side
    return picture.resize(
        (side, side), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    )


def _wrap(text: str, width: int, font: _Font) -> list[str]:
    """Wrap a text at spaces, and within words that are wider than a line."""
    # Before wrapping, whose cost grows with the text: a prompt may have 10,000 characters.
    text = text[:_LONGEST_CAPTION]
    if not _has_glyphs(text, font):
        text = "(the font lacks characters of the prompt; see the image's metadata)"
    lines: list[str] = []
    for paragraph in text.splitlines():
        lines.append("")
        for word in paragraph.split():
            for piece in _pieces(word, width, font):
                # The strip removes the space before the first word of a line.
                joined = f"{lines[-1]} {piece}".strip()
                if font.getlength(joined) <= width:
                    lines[-1] = joined
                else:
                    lines.append(piece)
    if len(lines) > _MOST_LINES:
        return [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1][:-1]}…"]
    return lines


def _pieces(word: str, width: int, font: _Font) -> Iterator[str]:
    while font.getlength(word) > width:
        # Measured for each length, because widths of letters differ. A single letter always fits: a
        # column has at least 192 pixels.
        fits = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
        yield word[:fits]
        word = word[fits:]
    yield word


def _has_glyphs(text: str, font: _Font) -> bool:
    # Pillow cannot list a font's glyphs, so compare with the one for missing characters.
    lacking = bytes(font.getmask(_NO_CHARACTER))
    return not any(bytes(font.getmask(character)) == lacking for character in set(text) - {"\n"})
