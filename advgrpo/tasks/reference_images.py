"""Make reference images, or validate those that there are."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from advgrpo.config import RunConfig
from advgrpo.config.reference_images import DiffusersSource as DiffusersSourceConfig
from advgrpo.config.tasks import ReferenceImagesSettings, digest, parse_json
from advgrpo.data.reference_images import (
    ReferenceImageReport,
    ReferenceImageSource,
    inspect_reference_images,
    validate_reference_images,
)
from advgrpo.data.reference_manifest import read_manifest
from advgrpo.pocket.source import PocketRenderer
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_generation import generate_reference_images
from advgrpo.storage import cache_folder, join, local_folder
from advgrpo.tasks.inputs import Prompts, device, is_local, read_run_prompts
from advgrpo.tasks.packed import kept_at, unpacked
from advgrpo.tasks.running import tracked_task


class ReferenceImageLocations(NamedTuple):
    """Where a run's reference images are."""

    train: str
    test: str


def make_reference_images(
    settings: str, *, workspace: str, parent_run_id: str = ""
) -> ReferenceImageLocations:
    """Draw reference images for training and test prompts, or validate an existing set.

    Repeated with the same settings it goes on where it stopped, or finds all done.

    Args:
        settings: `ReferenceImagesSettings` as JSON text.
        workspace: Local path or `s3://` location under which images are kept.
        parent_run_id: MLflow run to nest in; empty for a run of its own.

    Returns:
        Validated sets.

    Raises:
        ConfigError: If the settings are wrong.
        PromptFileError: If a prompt file cannot be used.
        ReferenceImageError: If an existing set is incomplete or damaged.
        StorageError: If images cannot be read or kept.
    """
    with tracked_task("reference-images", parent_run_id) as run:
        task = parse_json(ReferenceImagesSettings, settings, where="the settings")
        prompts = read_run_prompts(task.prompts)
        config = task.reference_images
        existing = config.existing
        test_exists = False
        if existing is not None:
            test_exists = _validate_existing(existing, task, prompts)
        train = existing or _draw(
            prompts.train, config.images_per_prompt, task, workspace=workspace, name="train"
        )
        test = (
            existing
            if existing is not None and test_exists
            else _draw(
                prompts.test, config.test_images_per_prompt, task, workspace=workspace, name="test"
            )
        )
        run.parameters({**task.model_dump(mode="json"), "train": train, "test": test})
        return ReferenceImageLocations(train, test)


def open_reference_images(
    location: str,
    prompts: PromptSet,
    *,
    images_per_prompt: int,
    resolution_pixels: int,
    seed: int,
    other_prompts: PromptSet,
) -> ReferenceImageSet:
    """Bring a set to the local disk and validate it. See `validate_reference_images`."""
    return validate_reference_images(
        unpacked(location),
        prompts,
        images_per_prompt,
        resolution_pixels,
        seed=seed,
        other_prompts=other_prompts,
    )


def inspect(location: str, config: RunConfig, *, test: bool) -> ReferenceImageReport:
    """Check every file of a set against a run's settings. See `inspect_reference_images`.

    Args:
        location: Folder or `s3://` location of the set.
        config: The run's settings.
        test: Whether it is for the test prompts, not for the training prompts.
    """
    prompts, wanted = read_run_prompts(config.prompts), config.reference_images
    return inspect_reference_images(
        unpacked(location),
        prompts.test if test else prompts.train,
        images_per_prompt=wanted.test_images_per_prompt if test else wanted.images_per_prompt,
        resolution_pixels=wanted.resolution_pixels,
        seed=config.seed,
        other_prompts=prompts.train if test else prompts.test,
    )


def _validate_existing(location: str, task: ReferenceImagesSettings, prompts: Prompts) -> bool:
    """Validate a set; tell whether it has the test prompts too."""
    folder, config = local_folder(location), task.reference_images
    pixels = config.resolution_pixels
    validate_reference_images(
        folder,
        prompts.train,
        config.images_per_prompt,
        pixels,
        seed=task.seed,
        other_prompts=prompts.test,
    )
    has_test = not set(prompts.test.texts).isdisjoint(read_manifest(folder))
    if has_test:
        validate_reference_images(
            folder,
            prompts.test,
            config.test_images_per_prompt,
            pixels,
            seed=task.seed,
            other_prompts=prompts.train,
        )
    return has_test


def _draw(
    prompts: PromptSet,
    images_per_prompt: int,
    task: ReferenceImagesSettings,
    *,
    workspace: str,
    name: str,
) -> str:
    key = digest(task, prompts.digest)
    location = join(workspace, "reference_images", key, name)

    def draw(folder: Path) -> None:
        generate_reference_images(
            _source(task),
            prompts,
            task.reference_images,
            images_per_prompt=images_per_prompt,
            seed=task.seed,
            output=folder,
        )

    if is_local(location):
        draw(Path(location))
        return location
    folder = cache_folder() / "drawing" / hashlib.sha256(location.encode()).hexdigest()
    with kept_at(location, folder):
        draw(folder)
    return location


def _source(task: ReferenceImagesSettings) -> ReferenceImageSource:
    config = task.reference_images
    if isinstance(config.source, DiffusersSourceConfig):
        # Loads diffusers, which takes seconds.
        from advgrpo.reference_generation.diffusers_source import DiffusersSource  # noqa: PLC0415

        return DiffusersSource(
            config.source, resolution_pixels=config.resolution_pixels, device=device()
        )
    return PocketRenderer()
