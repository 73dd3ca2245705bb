"""Draw a whole reference image set, or what is left of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from advgrpo import __version__
from advgrpo.algorithm.randomness import seed_for
from advgrpo.config.reference_images import ReferenceImagesConfig
from advgrpo.data.images import encode_png
from advgrpo.data.reference_images import ReferenceImageSource, digest_of
from advgrpo.data.reference_manifest import Origin, Provenance, write_manifest, write_provenance
from advgrpo.errors import ReferenceImageError
from advgrpo.progress import Progress
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_generation.journal import Journal
from advgrpo.storage.base import PARTIAL_PREFIX
from advgrpo.storage.local import disk_errors


@dataclass(frozen=True)
class PlannedImage:
    """An image that a set must hold."""

    prompt: str
    variation: int
    name: str
    """Name of its file: follows from prompt and variation alone."""

    seed: int


def plan_images(prompts: PromptSet, images_per_prompt: int, seed: int) -> list[PlannedImage]:
    """List the images of a set.

    Args:
        prompts: What to draw.
        images_per_prompt: Variations of each prompt.
        seed: The run's seed.

    Returns:
        Prompt by prompt. File name and seed of an image depend on its prompt's text, its variation
        and the run's seed, so another order or number of prompts never binds a file to another
        prompt.
    """
    planned: list[PlannedImage] = []
    for prompt in prompts.texts:
        key = hashlib.sha256(prompt.encode()).hexdigest()
        planned += [
            PlannedImage(
                prompt,
                variation,
                name=f"{key[:16]}_{variation}.png",
                seed=seed_for("reference image", seed, key, variation),
            )
            for variation in range(images_per_prompt)
        ]
    return planned


def generate_reference_images(
    source: ReferenceImageSource,
    prompts: PromptSet,
    config: ReferenceImagesConfig,
    *,
    images_per_prompt: int,
    seed: int,
    output: Path,
) -> ReferenceImageSet:
    """Draw a reference image set, going on from what a former run left in the folder.

    An interruption loses the current batch at most. Files of a former run are kept if their content
    is what it was when drawn, and drawn again if not. `manifest.json` is written last, so a folder
    without it is half made.

    Args:
        source: What draws the images.
        prompts: What to draw.
        config: Resolution and batch size.
        images_per_prompt: Images of each prompt.
        seed: The run's seed.
        output: Folder to draw into.

    Returns:
        The set, with `images_per_prompt` files for each prompt.

    Raises:
        ReferenceImageError: If the folder holds images of another source, seed, resolution or
            prompt, or if the source draws unusable or repeated images.
        StorageFullError: If the disk is full; what is whole stays.
    """
    origin = Origin(
        source=dict(source.provenance), seed=seed, resolution_pixels=config.resolution_pixels
    )
    plan = plan_images(prompts, images_per_prompt, seed)
    with Journal(output, origin, {image.name for image in plan}) as journal:
        missing = [image for image in plan if image.name not in journal.sha256]
        progress = Progress("reference images", len(plan), "images")
        progress.resume_at(len(plan) - len(missing))
        owners = {content: name for name, content in journal.sha256.items()}
        for start in range(0, len(missing), config.batch_size):
            batch = missing[start : start + config.batch_size]
            images = _draw(source, batch, config.resolution_pixels)
            journal.add(_write_images(output, batch, images, owners))
            progress.advance(len(batch))
        reference_images = _complete(output, plan, origin, journal.sha256)
    journal.remove()
    return reference_images


def _draw(
    source: ReferenceImageSource, batch: Sequence[PlannedImage], pixels: int
) -> Float[Tensor, "batch 3 height width"]:
    images = source.draw([image.prompt for image in batch], [image.seed for image in batch])
    expected = (len(batch), 3, pixels, pixels)
    if tuple(images.shape) != expected:
        raise ReferenceImageError(
            f"the source drew images of shape {tuple(images.shape)} instead of {expected}",
            repair="set reference_images.resolution_pixels to a size that the source can draw",
        )
    return images


def _write_images(
    folder: Path,
    batch: Sequence[PlannedImage],
    images: Float[Tensor, "batch 3 height width"],
    owners: dict[str, str],
) -> dict[str, str]:
    """Write a batch.

    Args:
        folder: The set.
        batch: What the images are.
        images: RGB in [0, 1].
        owners: Hash of each content so far -> its file name; the batch's are added.

    Returns:
        File name -> SHA-256 of its content.
    """
    sha256: dict[str, str] = {}
    for planned, image in zip(batch, images, strict=True):
        try:
            data = encode_png(image)
        except ValueError as error:
            raise ReferenceImageError(
                f"the source drew an unusable image of {planned.prompt!r}: {error}",
                repair="draw in float32, or with other settings of reference_images.source",
            ) from error
        content = hashlib.sha256(data).hexdigest()
        owner = owners.setdefault(content, planned.name)
        if owner != planned.name:
            raise ReferenceImageError(
                f"the source drew the same image for {owner} and {planned.name} "
                f"({planned.prompt!r}, seed {planned.seed})",
                repair="use a source that draws another image for another prompt or seed",
            )
        _replace_file(folder / planned.name, data)
        sha256[planned.name] = content
    return sha256


def _replace_file(path: Path, data: bytes) -> None:
    # Unlike storage.write_bytes, no wait for the disk: after a power cut, the journal's hashes find
    # a file that did not arrive, and it is drawn again.
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
    with disk_errors("write", path):
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _complete(
    folder: Path, plan: Sequence[PlannedImage], origin: Origin, drawn: dict[str, str]
) -> ReferenceImageSet:
    sha256 = {image.name: drawn[image.name] for image in plan}
    files = {
        prompt: tuple(image.name for image in images)
        for prompt, images in groupby(plan, key=lambda image: image.prompt)
    }
    provenance = Provenance(
        source=origin.source,
        seed=origin.seed,
        resolution_pixels=origin.resolution_pixels,
        advgrpo_version=__version__,
        files=sha256,
    )
    write_provenance(folder, provenance)
    write_manifest(folder, files)
    return ReferenceImageSet(
        root=folder,
        files=files,
        resolution_pixels=origin.resolution_pixels,
        digest=digest_of(files, sha256),
        provenance=provenance.model_dump(exclude={"files"}),
    )
