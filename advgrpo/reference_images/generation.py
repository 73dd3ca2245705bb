"""Draw a whole reference image set, or what is left of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from advgrpo import __version__
from advgrpo.algorithm.seeds import seed_for
from advgrpo.config.reference_images import FileFormat, ReferenceImagesConfig
from advgrpo.data.images import encode_png, encode_webp
from advgrpo.errors import ReferenceImageError
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.image_set import ReferenceImageSource, digest_of
from advgrpo.reference_images.image_store import FolderShelf, ImageStore, PackedShelf, sha256_of
from advgrpo.reference_images.manifest import (
    Origin,
    Provenance,
    read_manifest,
    read_provenance,
)
from advgrpo.runtime.work_queue import SingleWorker, WorkQueue, claim_with_progress
from advgrpo.telemetry.progress import Progress


@dataclass(frozen=True)
class PlannedImage:
    """An image that a set must hold."""

    prompt: str
    variation: int
    name: str
    """Name of its file: follows from prompt and variation alone."""

    seed: int


def plan_images(
    prompts: PromptSet, images_per_prompt: int, seed: int, file_format: FileFormat = "png"
) -> list[PlannedImage]:
    """List the images of a set.

    Args:
        prompts: What to draw.
        images_per_prompt: Variations of each prompt.
        seed: The run's seed.
        file_format: Ending of the files' names.

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
                name=f"{key[:16]}_{variation}.{file_format}",
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
    queue: WorkQueue | None = None,
) -> ReferenceImageSet:
    """Draw a reference image set into a local folder, going on from what a former run left there.

    An interruption loses the current batch at most. Files of a former run are kept if their content
    is what it was when drawn, and drawn again if not. `manifest.json` is written last, so a folder
    without it is half made.

    Args:
        source: What draws the images.
        prompts: What to draw.
        config: Resolution and batch size.
        images_per_prompt: Images of each prompt.
        seed: The run's seed.
        output: Folder to draw into; all workers see the same one.
        queue: Workers that draw it together, each of which calls this; without it, this one alone.

    Returns:
        The set, with `images_per_prompt` files for each prompt.

    Raises:
        ReferenceImageError: If the folder holds images of another source, seed, resolution or
            prompt, or if the source draws unusable or repeated images.
        StorageFullError: If the disk is full; what is whole stays.
    """
    origin = _origin(source, config, seed)
    plan = plan_images(prompts, images_per_prompt, seed, config.file_format)
    _draw_all(source, plan, config, FolderShelf(output, origin), origin, queue or SingleWorker())
    files, provenance = read_manifest(output), read_provenance(output)
    assert provenance is not None
    return ReferenceImageSet(
        root=str(output),
        files=files,
        resolution_pixels=origin.resolution_pixels,
        digest=digest_of(files, provenance.files),
        provenance=provenance.model_dump(exclude={"files", "images"}),
        sha256=provenance.files,
    )


def generate_packed_reference_images(
    source: ReferenceImageSource,
    prompts: PromptSet,
    config: ReferenceImagesConfig,
    *,
    images_per_prompt: int,
    seed: int,
    location: str,
    queue: WorkQueue | None = None,
) -> None:
    """Draw a reference image set into an object store, going on from what a former run left there.

    No image touches the local disk. An interruption loses a few batches of each worker at most.

    Args:
        source: What draws the images.
        prompts: What to draw.
        config: Resolution and batch size.
        images_per_prompt: Images of each prompt.
        seed: The run's seed.
        location: `s3://` location of the archives.
        queue: Workers that draw it together, each of which calls this; without it, this one alone.

    Raises:
        ReferenceImageError: If the source draws unusable or repeated images.
        StorageError: If the object store refuses; what it has is kept.
    """
    origin = _origin(source, config, seed)
    plan = plan_images(prompts, images_per_prompt, seed, config.file_format)
    _draw_all(source, plan, config, PackedShelf(location, origin), origin, queue or SingleWorker())


def _origin(source: ReferenceImageSource, config: ReferenceImagesConfig, seed: int) -> Origin:
    return Origin(
        source=dict(source.provenance), seed=seed, resolution_pixels=config.resolution_pixels
    )


def _draw_all(
    source: ReferenceImageSource,
    plan: Sequence[PlannedImage],
    config: ReferenceImagesConfig,
    shelf: ImageStore,
    origin: Origin,
    queue: WorkQueue,
) -> None:
    missing = _missing(plan, shelf, queue)
    progress = Progress("reference images", len(plan), "images")
    progress.resume_at(len(plan) - len(missing))
    lease = shelf.batches_per_lease * config.batch_size
    with shelf.open(queue.rank):
        leases = [missing[start : start + lease] for start in range(0, len(missing), lease)]
        for number in claim_with_progress(queue, [len(images) for images in leases], progress):
            images = leases[number]
            files: dict[str, bytes] = {}
            for start in range(0, len(images), config.batch_size):
                batch = images[start : start + config.batch_size]
                drawn = _draw(source, batch, config.resolution_pixels)
                files |= _encode(batch, drawn, config.file_format)
            # The whole set is looked through at the end; a source at fault is seen at once.
            _refuse_repeated(images, {name: sha256_of(data) for name, data in files.items()})
            shelf.keep(files)
    queue.barrier("drawn")
    if queue.rank == 0:
        _complete(plan, shelf, origin)
    queue.barrier("complete")


def _missing(
    plan: Sequence[PlannedImage], shelf: ImageStore, queue: WorkQueue
) -> list[PlannedImage]:
    """Find what is left to draw; the first worker looks, the others take its word."""
    text = ""
    if queue.rank == 0:
        drawn = shelf.find({image.name for image in plan})
        left = [position for position, image in enumerate(plan) if image.name not in drawn]
        text = json.dumps(left)
    return [plan[position] for position in json.loads(queue.broadcast(text))]


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


def _encode(
    batch: Sequence[PlannedImage],
    images: Float[Tensor, "batch 3 height width"],
    file_format: FileFormat,
) -> dict[str, bytes]:
    """Encode a batch, RGB in [0, 1]: file name -> its content."""
    encode = encode_webp if file_format == "webp" else encode_png
    files: dict[str, bytes] = {}
    for planned, image in zip(batch, images, strict=True):
        try:
            files[planned.name] = encode(image)
        except ValueError as error:
            raise ReferenceImageError(
                f"the source drew an unusable image of {planned.prompt!r}: {error}",
                repair="draw in float32, or with other settings of reference_images.source",
            ) from error
    return files


def _complete(plan: Sequence[PlannedImage], shelf: ImageStore, origin: Origin) -> None:
    kept = shelf.kept()
    sha256 = {image.name: kept[image.name] for image in plan}
    _refuse_repeated(plan, sha256)
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
    shelf.complete(files, provenance)


def _refuse_repeated(plan: Sequence[PlannedImage], sha256: Mapping[str, str]) -> None:
    owners: dict[str, PlannedImage] = {}
    for image in plan:
        owner = owners.setdefault(sha256[image.name], image)
        if owner is not image:
            raise ReferenceImageError(
                f"the source drew the same image for {owner.name} and {image.name} "
                f"({image.prompt!r}, seed {image.seed})",
                repair="use a source that draws another image for another prompt or seed",
            )
