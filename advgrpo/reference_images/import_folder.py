"""Import of a folder of pictures as reference images that serve any prompt."""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from advgrpo import __version__
from advgrpo.config.reference_images import FolderSource
from advgrpo.data.images import encode_png, from_pil
from advgrpo.data.picture_files import decode_file
from advgrpo.data.prompts import Split
from advgrpo.errors import ReferenceImageError, StorageError
from advgrpo.models.backbones.preprocessing import resize
from advgrpo.reference_images.checks import (
    Problem,
    ProblemKind,
    describe_changes,
    extra_files,
    repeated_content,
)
from advgrpo.reference_images.image_store import open_image_store, sha256_of
from advgrpo.reference_images.manifest import Origin, Provenance
from advgrpo.reference_images.report import ReferenceImageReport
from advgrpo.reference_images.shared_images import ANY_PROMPT, is_test_image
from advgrpo.storage.files import storage_for
from advgrpo.storage.local import disk_errors, file_sha256
from advgrpo.telemetry.progress import Progress

_LEAST_TEST_IMAGES = 2

logger = logging.getLogger("advgrpo")


class _WrongSizeError(ValueError):
    """A picture that cannot be brought to the requested size."""


@dataclass(frozen=True)
class Picture:
    """A file of the folder, after its check."""

    name: str
    sha256: str = ""
    """SHA-256 of the resulting PNG; empty if the picture cannot be used."""

    problem: Problem | None = None
    changes: tuple[str, ...] = ()
    """What was done to its pixels before it was fitted."""

    @property
    def image_name(self) -> str:
        """File name in the set, which follows from the content."""
        return f"{self.sha256[:32]}.png"


def folder_digest(folder: Path) -> str:
    """Return a digest of the names and contents of a folder's pictures.

    Raises:
        ReferenceImageError: If there are none.
    """
    names = _pictures_in(folder)
    if not names:
        raise ReferenceImageError(
            f"{folder} holds no PNG, JPEG or WebP file",
            repair="set reference_images.source.location to the folder of the style's images",
        )
    # Contents, not modification times: a copied folder is the same set.
    entries = [f"{name} {file_sha256(folder / name)}" for name in names]
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def origin_of(source: FolderSource, digest: str, resolution_pixels: int) -> Origin:
    """Return the origin of a set that is imported from a folder."""
    settings = {"type": source.type, "fit": source.fit, "test_fraction": source.test_fraction}
    return Origin(
        # The folder's location is left out, so that the folder can be moved. Nothing is drawn, so
        # the seed is 0.
        source={**settings, "folder": digest},
        seed=0,
        resolution_pixels=resolution_pixels,
    )


def import_folder(
    folder: Path, source: FolderSource, origin: Origin, location: str | Path, split: Split
) -> None:
    """Import the pictures of one of the two splits, resuming an interrupted import.

    Args:
        folder: The pictures.
        source: The settings.
        origin: Result of `origin_of`.
        location: Folder or `s3://` location of the set.
        split: Pictures to train on, or those that only evaluations use.

    Raises:
        ReferenceImageError: If a picture cannot be used, or there are too few. Counts all problems
            and lists the first dozen.
        StorageError: If the folder cannot be read or the set not be written.
    """
    store, pixels = open_image_store(location, origin), origin.resolution_pixels
    pictures = check_pictures(folder, source, pixels)
    # By content, so that pictures stay in their split when others are added or files are renamed.
    for_test = [is_test_image(p.sha256, source.test_fraction) for p in pictures]
    if sum(for_test) < _LEAST_TEST_IMAGES or all(for_test):
        raise ReferenceImageError(
            f"reference_images.source.test_fraction={source.test_fraction:g}: of the "
            f"{len(pictures)} pictures in {folder}, {sum(for_test)} are for testing; at least "
            f"{_LEAST_TEST_IMAGES} are needed, and one to train on",
            repair="add pictures to the folder, or change the fraction",
        )
    wanted = {
        picture.image_name: picture
        for picture, is_test in zip(pictures, for_test, strict=True)
        if is_test == (split == "test")
    }
    saved = store.resume(wanted)
    progress = Progress("reference images", len(wanted), "images")
    progress.resume_at(len(saved))
    with store.open(0):
        for batch in _batches(wanted, saved, store.batches_per_lease * 8):
            # Encoded a second time: keeping all PNGs since the check could exhaust the memory.
            store.save({n: _png(folder / p.name, source, pixels)[0] for n, p in batch.items()})
            progress.advance(len(batch))
    provenance = Provenance(
        **origin.model_dump(),
        advgrpo_version=__version__,
        files={name: picture.sha256 for name, picture in wanted.items()},
    )
    store.complete({ANY_PROMPT: tuple(sorted(wanted))}, provenance)


def check_pictures(folder: Path, source: FolderSource, pixels: int) -> list[Picture]:
    """Check every picture of a folder.

    Raises:
        ReferenceImageError: If a picture cannot be used. Counts all problems and lists the first
            dozen.
    """
    names = _pictures_in(folder)
    progress = Progress("checking style images", len(names), "images")
    pictures = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for picture in pool.map(lambda name: _check(folder, name, source, pixels), names):
            pictures.append(picture)
            progress.advance()
    problems = [picture.problem for picture in pictures if picture.problem is not None]
    # Copies would have the same file name in the set.
    problems += repeated_content({picture.name: picture.sha256 for picture in pictures})
    report = ReferenceImageReport(folder, 0, len(pictures), tuple(problems), None)
    if problems:
        raise ReferenceImageError(
            f"pictures in {folder} cannot be used: {report.describe_problems()}",
            repair="remove or replace them, or set reference_images.source.fit=crop to accept "
            "larger ones",
        )
    if changes := describe_changes({picture.name: picture.changes for picture in pictures}):
        logger.info("pictures in %s:%s", folder, changes)
    return pictures


def fitted(
    image: Float[Tensor, "3 height width"], fit: Literal["exact", "crop"], pixels: int
) -> Float[Tensor, "3 side side"]:
    """Return an image in the requested size.

    Args:
        image: RGB in [0, 1].
        fit: `exact` or `crop`, as `FolderSource.fit` says.
        pixels: Height and width.

    Raises:
        ValueError: If the image is too small, or `fit` is `exact` and its size differs. The
            message continues a sentence that starts with the file's name.
    """
    height, width = image.shape[1:]
    side = min(height, width)
    if (fit == "exact" and (height, width) != (pixels, pixels)) or side < pixels:
        raise _WrongSizeError(f"is {width} x {height} pixels, not {pixels} x {pixels}")
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[None, :, top : top + side, left : left + side], pixels)[0]


def _pictures_in(folder: Path) -> list[str]:
    return extra_files(storage_for(str(folder)).list_files(str(folder)), ())


def _check(folder: Path, name: str, source: FolderSource, pixels: int) -> Picture:
    try:
        data, changes = _png(folder / name, source, pixels)
        return Picture(name, sha256_of(data), changes=changes)
    except StorageError as error:
        return Picture(name, problem=Problem(ProblemKind.DAMAGED, error.message))
    # A subclass of ValueError, so it must come first.
    except _WrongSizeError as error:
        return Picture(name, problem=Problem(ProblemKind.WRONG_SIZE, f"{name} {error}"))
    except ValueError as error:
        return Picture(name, problem=Problem(ProblemKind.DAMAGED, f"{name} {error}"))


def _png(path: Path, source: FolderSource, pixels: int) -> tuple[bytes, tuple[str, ...]]:
    """Return a picture as PNG in the requested size, and what was done to its pixels before."""
    with disk_errors("read", path):
        data = path.read_bytes()
    picture, changes = decode_file(data)
    return encode_png(fitted(from_pil(picture), source.fit, pixels)), changes


def _batches(
    wanted: Mapping[str, Picture], saved: Mapping[str, str], size: int
) -> Iterator[dict[str, Picture]]:
    missing = [(name, picture) for name, picture in wanted.items() if name not in saved]
    for start in range(0, len(missing), size):
        yield dict(missing[start : start + size])
