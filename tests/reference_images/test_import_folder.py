"""A folder of pictures becomes two sets, or is refused with all that is wrong with it."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from advgrpo.config.reference_images import FolderSource
from advgrpo.data.prompts import SPLITS
from advgrpo.errors import ReferenceImageError
from advgrpo.reference_images.import_folder import (
    fitted,
    folder_digest,
    import_folder,
    origin_of,
)
from advgrpo.reference_images.manifest import read_manifest, read_provenance
from advgrpo.reference_images.shared_images import ANY_PROMPT, inspect_shared_images

SIDE = 16


def picture(seed: int, width: int = SIDE, height: int = SIDE, kind: str = "PNG") -> bytes:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(levels).save(data, format=kind)
    return data.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty pictures in three formats, some in a folder below."""
    (tmp_path / "style" / "below").mkdir(parents=True)
    for n in range(30):
        kind = ("PNG", "JPEG", "WEBP")[n % 3]
        where = "below" if n % 2 else "."
        name = tmp_path / "style" / where / f"{n}.{kind.lower()}"
        name.write_bytes(picture(n, kind=kind))
    (tmp_path / "style" / "read me.txt").write_text("no picture")
    return tmp_path / "style"


def made(
    folder: Path, output: Path, fit: Literal["exact", "crop"] = "exact"
) -> dict[str, set[str]]:
    source = FolderSource(location=str(folder), fit=fit, test_fraction=0.3)
    origin = origin_of(source, folder_digest(folder), SIDE)
    names = {}
    for split in SPLITS:
        import_folder(folder, source, origin, output / split, split)
        names[split] = set(read_manifest(output / split)[ANY_PROMPT])
    return names


def test_every_picture_is_in_one_of_two_valid_sets(folder: Path, tmp_path: Path) -> None:
    names = made(folder, tmp_path / "sets")
    assert not names["train"] & names["test"]
    assert len(names["train"]) + len(names["test"]) == 30
    assert 2 <= len(names["test"]) < 20
    for part in names:
        images = inspect_shared_images(tmp_path / "sets" / part, resolution_pixels=SIDE)
        assert set(images.validated().files[ANY_PROMPT]) == names[part]
    provenance = read_provenance(tmp_path / "sets" / "train")
    assert provenance is not None
    assert provenance.source["folder"] == folder_digest(folder)


def test_an_added_picture_moves_no_other_one_to_the_other_set(folder: Path, tmp_path: Path) -> None:
    before = made(folder, tmp_path / "before")
    (folder / "more.png").write_bytes(picture(99))
    after = made(folder, tmp_path / "after")
    assert all(before[part] <= after[part] for part in before)


def test_a_repeated_import_adds_only_missing_images(folder: Path, tmp_path: Path) -> None:
    names = made(folder, tmp_path / "sets")
    files = [tmp_path / "sets" / "train" / name for name in sorted(names["train"])]
    files[0].unlink()
    before = [file.stat().st_mtime_ns for file in files[1:]]
    made(folder, tmp_path / "sets")
    assert files[0].is_file()
    assert [file.stat().st_mtime_ns for file in files[1:]] == before


def test_a_set_of_other_settings_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    made(folder, tmp_path / "sets")
    with pytest.raises(ReferenceImageError, match=r"source\.fit was 'exact' and is 'crop'"):
        made(folder, tmp_path / "sets", "crop")


def test_all_problems_are_reported_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "torn.png").write_bytes(picture(50)[:40])
    (folder / "no picture.jpg").write_bytes(b"nothing")
    (folder / "small.png").write_bytes(picture(51, 8, 8))
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    grey = Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.uint8))
    grey.save(folder / "grey.png")
    with pytest.raises(ReferenceImageError) as refusal:
        made(folder, tmp_path / "sets")
    said = refusal.value.message
    assert "5 problems" in said
    for words in ("torn.png", "no picture.jpg", "small.png is 8 x 8", "grey.png has mode L"):
        assert words in said
    assert "0.png, copy.png hold the same image" in said
    assert "reference_images.source.fit" in refusal.value.repair
    assert not (tmp_path / "sets").exists()


def test_two_files_of_the_same_pixels_are_one_picture(folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "0.png") as same:
        same.save(folder / "same.webp", lossless=True)
    with pytest.raises(ReferenceImageError, match=r"0\.png, same\.webp hold the same image"):
        made(folder, tmp_path / "sets")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceImageError, match="holds no PNG, JPEG or WebP file"):
        folder_digest(tmp_path)


def test_too_few_pictures_are_refused_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "style").mkdir()
    (tmp_path / "style" / "one.png").write_bytes(picture(0))
    with pytest.raises(ReferenceImageError, match=r"reference_images\.source\.test_fraction=0\.3"):
        made(tmp_path / "style", tmp_path / "sets")


def test_cropping_takes_the_central_square_and_downscales_it() -> None:
    image = torch.zeros(3, 32, 64)
    image[:, :, 16:48] = 1.0
    assert torch.equal(fitted(image, "crop", 16), torch.ones(3, 16, 16))
    tall = fitted(image.transpose(1, 2), "crop", 32)
    assert torch.equal(tall, torch.ones(3, 32, 32))


@pytest.mark.parametrize(
    ("fit", "width", "height"), [("exact", 32, 32), ("exact", 16, 20), ("crop", 40, 15)]
)
def test_a_size_that_the_setting_does_not_allow_is_refused(
    fit: Literal["exact", "crop"], width: int, height: int
) -> None:
    with pytest.raises(ValueError, match=f"is {width} x {height} pixels, not 16 x 16"):
        fitted(torch.zeros(3, height, width), fit, 16)


def test_pictures_are_imported_as_a_viewer_shows_them(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(io.BytesIO(picture(99))) as shown:
        shown.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
        expected = np.asarray(shown)
    with caplog.at_level("INFO", "advgrpo"):
        names = made(folder, tmp_path / "sets")
    assert (
        "1 images are turned as the EXIF orientation says, for instance turned.png" in caplog.text
    )
    imported = [
        np.asarray(Image.open(tmp_path / "sets" / part / name))
        for part, found in names.items()
        for name in found
    ]
    assert sum(np.array_equal(image, expected) for image in imported) == 1
