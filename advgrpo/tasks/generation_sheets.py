"""Sheets of what `advgrpo generate` drew."""

from collections.abc import Iterator, Sequence

from PIL import Image

from advgrpo.data.contact_sheet import Band, contact_sheet
from advgrpo.data.images import decode_picture, encode_png, from_pil
from advgrpo.errors import ConfigError
from advgrpo.storage import join, list_files, read_bytes, write_bytes
from advgrpo.tasks.generation_plan import BASE, GenerationPlan, PlannedImage, image_facts

GRID_FILE = "grid.png"
COMPARISON_FILE = "side_by_side.png"
_MARK = {"sheet": "advgrpo generate"}
"""Tells a sheet of ours, which follows from the images and may be made anew."""

_COLUMNS = 4
_COMPARED_COLUMNS = 6
_MOST_COLUMNS = 8
_IMAGES_PER_SHEET = 48


def check_sheets(order: GenerationPlan) -> None:
    """Refuse to put a sheet in the place of something else.

    Raises:
        ConfigError: If there is a file of a sheet's name that is no sheet.
        StorageError: If the place cannot be read.
    """
    present = set(list_files(order.output))
    for name, _ in _sheets(order):
        location = join(order.output, name)
        if name in present and image_facts(location) != _MARK:
            raise ConfigError(
                f"--output: {location} is there already and is no sheet of advgrpo",
                repair="name another folder, or move the file away; nothing is overwritten",
            )


def write_sheets(order: GenerationPlan) -> None:
    """Write all images on sheets, in the place of former ones.

    Raises:
        StorageError: If an image cannot be read, or a sheet cannot be written.
    """
    for name, bands in _sheets(order):
        sheet = contact_sheet([_band(order, rows) for rows in bands])
        write_bytes(join(order.output, name), encode_png(from_pil(sheet), _MARK))


def _sheets(order: GenerationPlan) -> Iterator[tuple[str, Sequence[Sequence[list[PlannedImage]]]]]:
    """Name the sheets, each with its bands, which are rows of images."""
    first, columns = GRID_FILE, _COLUMNS
    rows = [order.images(is_base=not order.adapter)]
    if order.images_per_prompt > 1:
        columns = min(order.images_per_prompt, _MOST_COLUMNS)
    if order.compare:
        first, columns = COMPARISON_FILE, _COMPARED_COLUMNS
        rows = [order.images(is_base=True), order.images(is_base=False)]
    bands = [
        [row[start : start + columns] for row in rows] for start in range(0, len(rows[0]), columns)
    ]
    size = max(1, _IMAGES_PER_SHEET // (columns * len(rows)))
    for number, start in enumerate(range(0, len(bands), size), start=1):
        stem, dot, ending = first.rpartition(".")
        name = first if number == 1 else f"{stem}_{number}{dot}{ending}"
        yield name, bands[start : start + size]


def _band(order: GenerationPlan, rows: Sequence[list[PlannedImage]]) -> Band:
    return Band(
        rows=[[_picture(order, image) for image in row] for row in rows],
        captions=[f"{image.prompt}\nseed {image.seed}" for image in rows[0]],
        row_labels=(BASE, "adapter") if order.compare else (),
    )


def _picture(order: GenerationPlan, image: PlannedImage) -> Image.Image:
    return decode_picture(read_bytes(join(order.output, image.name)))
