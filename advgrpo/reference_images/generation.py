"""Generation of a reference image set by one or several workers."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from advgrpo import __version__
from advgrpo.config.reference_images import FileFormat, ReferenceImagesConfig
from advgrpo.data.images import encode_png, encode_webp
from advgrpo.errors import ReferenceImageError
from advgrpo.records import PromptSet
from advgrpo.reference_images.image_store import ImageStore, open_image_store, sha256_of
from advgrpo.reference_images.manifest import Origin, Provenance
from advgrpo.reference_images.request import PlannedImage, plan_images
from advgrpo.reference_images.source import ReferenceImageSource
from advgrpo.runtime.work_queue import SingleWorker, WorkQueue, claim_with_progress
from advgrpo.telemetry.progress import Progress


def generate_reference_images(
    source: ReferenceImageSource,
    prompts: PromptSet,
    config: ReferenceImagesConfig,
    *,
    images_per_prompt: int,
    seed: int,
    location: str | Path,
    queue: WorkQueue | None = None,
    all_prompts: PromptSet | None = None,
) -> None:
    """Generate a reference image set, resuming from what an earlier run left.

    In a folder, an interruption loses the current batch at most; in an object store, a few batches
    of each worker, and no image is written to the local disk. An image of an earlier run is kept if
    its content is unchanged. The manifest is written last: a set without one is incomplete.

    Args:
        source: Source of the images.
        prompts: Prompts of the images.
        config: Resolution, batch size and file format.
        images_per_prompt: Images of each prompt.
        seed: The run's seed.
        location: A local folder, shared by all workers, or the `s3://` location of the archives.
        queue: Workers that share the set, each of which calls this function; None for this one
            alone.
        all_prompts: All prompts whose images the set may hold, these included: images of the others
            stay in it. None for these alone.

    Raises:
        ReferenceImageError: If the location holds images of another source, seed, resolution or
            prompt, or if the source produces unusable or repeated images.
        StorageError: If the disk is full or the object store fails; saved images stay.
    """
    queue = queue or SingleWorker()
    origin = Origin(
        source=dict(source.provenance), seed=seed, resolution_pixels=config.resolution_pixels
    )
    possible = plan_images(all_prompts or prompts, images_per_prompt, seed, config.file_format)
    needed = set(prompts.texts)
    plan = [image for image in possible if image.prompt in needed]
    store = open_image_store(location, origin)
    # Rank 0 alone reads the store: workers that list it while others write would disagree on the
    # leases.
    missing = _find_missing(plan, possible, store, queue)
    progress = Progress("reference images", len(plan), "images")
    progress.resume_at(len(plan) - len(missing))
    # A store saves a whole lease at once, so an archive has several batches.
    size = store.batches_per_lease * config.batch_size
    leases = [missing[start : start + size] for start in range(0, len(missing), size)]
    with store.open(queue.rank):
        # Leases are claimed, not divided in advance, so that a slow worker does not delay the
        # others.
        for number in claim_with_progress(queue, [len(images) for images in leases], progress):
            store.save(_generate(source, leases[number], config))
    # The manifest may only be written when the last worker has saved its images.
    queue.barrier("generated")
    if queue.rank == 0:
        hashes = store.hashes()
        saved = [image for image in possible if image.prompt in needed or image.name in hashes]
        _complete(saved, hashes, store, origin)
    # After this, every worker can read the set.
    queue.barrier("complete")


def _find_missing(
    plan: Sequence[PlannedImage],
    possible: Sequence[PlannedImage],
    store: ImageStore,
    queue: WorkQueue,
) -> list[PlannedImage]:
    """Return the images to generate, as the first worker determines them for all."""
    text = ""
    if queue.rank == 0:
        saved = store.resume({image.name for image in possible})
        text = json.dumps(
            # Positions instead of names keep the broadcast text short; the plan is equal on all
            # ranks.
            [position for position, image in enumerate(plan) if image.name not in saved]
        )
    return [plan[position] for position in json.loads(queue.broadcast(text))]


def _generate(
    source: ReferenceImageSource, images: Sequence[PlannedImage], config: ReferenceImagesConfig
) -> dict[str, bytes]:
    """Return encoded images, by file name."""
    files: dict[str, bytes] = {}
    for start in range(0, len(images), config.batch_size):
        batch = images[start : start + config.batch_size]
        files |= _encode(batch, _draw(source, batch, config.resolution_pixels), config.file_format)
    # The complete set is checked at the end; a faulty source should fail before that.
    _refuse_repeated(images, {name: sha256_of(data) for name, data in files.items()})
    return files


def _draw(
    source: ReferenceImageSource, batch: Sequence[PlannedImage], pixels: int
) -> Float[Tensor, "batch 3 height width"]:
    images = source.draw([image.prompt for image in batch], [image.seed for image in batch])
    expected = (len(batch), 3, pixels, pixels)
    # Some pipelines, such as Flux, round the size and only log a warning.
    if tuple(images.shape) != expected:
        raise ReferenceImageError(
            f"the source returned images of shape {tuple(images.shape)} instead of {expected}",
            repair="set reference_images.resolution_pixels to a size that the source supports",
        )
    return images


def _encode(
    batch: Sequence[PlannedImage],
    images: Float[Tensor, "batch 3 height width"],
    file_format: FileFormat,
) -> dict[str, bytes]:
    """Encode a batch, RGB in [0, 1]: file name -> content."""
    encode = encode_webp if file_format == "webp" else encode_png
    files: dict[str, bytes] = {}
    for planned, image in zip(batch, images, strict=True):
        try:
            files[planned.name] = encode(image)
        except ValueError as error:
            raise ReferenceImageError(
                f"the source returned an unusable image of {planned.prompt!r}: {error}",
                repair="set reference_images.source.dtype=float32, or change its other settings",
            ) from error
    return files


def _complete(
    images: Sequence[PlannedImage], hashes: Mapping[str, str], store: ImageStore, origin: Origin
) -> None:
    # Without files of other prompts that an archive may still list.
    sha256 = {image.name: hashes[image.name] for image in images}
    _refuse_repeated(images, sha256)
    files = {
        prompt: tuple(image.name for image in of_prompt)
        # `groupby` needs adjacent images of a prompt, as `plan_images` returns them.
        for prompt, of_prompt in groupby(images, key=lambda image: image.prompt)
    }
    provenance = Provenance(**origin.model_dump(), advgrpo_version=__version__, files=sha256)
    store.complete(files, provenance)


def _refuse_repeated(plan: Sequence[PlannedImage], sha256: Mapping[str, str]) -> None:
    # Equal images mean that the source ignores seeds or prompts.
    owners: dict[str, PlannedImage] = {}
    for image in plan:
        owner = owners.setdefault(sha256[image.name], image)
        if owner is not image:
            raise ReferenceImageError(
                f"the source returned the same image for {owner.name} and {image.name} "
                f"({image.prompt!r}, seed {image.seed})",
                repair="use a source whose images depend on prompt and seed",
            )
