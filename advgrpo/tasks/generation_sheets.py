"""Contact sheets of the images of `advgrpo generate`."""

from collections.abc import Iterator, Sequence

from PIL import Image

from advgrpo.data.contact_sheet import Band, contact_sheet
from advgrpo.data.images import encode_png, from_pil
from advgrpo.data.picture_files import decode_picture
from advgrpo.errors import ConfigError
from advgrpo.storage.files import list_files, read_bytes, write_bytes
from advgrpo.storage.locations import join
from advgrpo.tasks.generation_plan import BASE, GenerationPlan, PlannedImage, read_metadata

GRID_FILE = "grid.png"
COMPARISON_FILE = "side_by_side.png"
_MARK = {"sheet": "advgrpo generate"}
"""Metadata of a sheet, which may be overwritten because it follows from the images."""

_COLUMNS = 4
_COMPARED_COLUMNS = 6
_MOST_COLUMNS = 8
_IMAGES_PER_SHEET = 48


def check_sheets(plan: GenerationPlan) -> None:
    """Raise an error if writing the sheets would overwrite another file.

    Raises:
        ConfigError: If a file has the name of a sheet and is not one.
        StorageError: If the output location cannot be read.
    """
    present = set(list_files(plan.output))
    for name, _ in _sheets(plan):
        location = join(plan.output, name)
        # Checked for every sheet before the first is written.
        if name in present and read_metadata(location) != _MARK:
            raise ConfigError(
                f"--output: {location} exists and is not a sheet of advgrpo",
                repair="choose another --output, or move the file; nothing is overwritten",
            )


def write_sheets(plan: GenerationPlan) -> None:
    """Write sheets of all images, replacing former ones.

    Raises:
        StorageError: If an image cannot be read, or a sheet cannot be written.
    """
    for name, bands in _sheets(plan):
        sheet = contact_sheet([_band(plan, rows) for rows in bands])
        write_bytes(join(plan.output, name), encode_png(from_pil(sheet), _MARK))


def _sheets(plan: GenerationPlan) -> Iterator[tuple[str, Sequence[Sequence[list[PlannedImage]]]]]:
    """Yield each sheet's file name and bands; a band is a list of rows of images."""
    first, columns = GRID_FILE, _COLUMNS
    rows = [plan.images(is_base=not plan.adapter)]
    if plan.images_per_prompt > 1:
        columns = min(plan.images_per_prompt, _MOST_COLUMNS)
    if plan.compare:
        first, columns = COMPARISON_FILE, _COMPARED_COLUMNS
        rows = [plan.images(is_base=True), plan.images(is_base=False)]
    bands = [
        [row[start : start + columns] for row in rows] for start in range(0, len(rows[0]), columns)
    ]
    size = max(1, _IMAGES_PER_SHEET // (columns * len(rows)))
    for number, start in enumerate(range(0, len(bands), size), start=1):
        stem, dot, ending = first.rpartition(".")
        name = first if number == 1 else f"{stem}_{number}{dot}{ending}"
        yield name, bands[start : start + size]


def _band(plan: GenerationPlan, rows: Sequence[list[PlannedImage]]) -> Band:
    return Band(
        rows=[[_picture(plan, image) for image in row] for row in rows],
        captions=[f"{image.prompt}\nseed {image.seed}" for image in rows[0]],
        row_labels=(BASE, "adapter") if plan.compare else (),
    )


def _picture(plan: GenerationPlan, image: PlannedImage) -> Image.Image:
    return decode_picture(read_bytes(join(plan.output, image.name)))
