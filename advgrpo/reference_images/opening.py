"""Reference image sets in a workspace, opened or inspected for a run."""

from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import PromptDraws, ReferenceImagesSettings
from advgrpo.data.drawn_prompts import drawn_prompts
from advgrpo.data.prompts import Prompts, Split, read_run_prompts
from advgrpo.records import ReferenceImageSet
from advgrpo.reference_images.image_set import (
    inspect_reference_images,
    validate_reference_images,
)
from advgrpo.reference_images.report import ReferenceImageReport
from advgrpo.reference_images.request import ROOT, readable, requested_sets
from advgrpo.reference_images.shared_images import inspect_shared_images
from advgrpo.storage.archives import extract
from advgrpo.storage.cache import cache_folder
from advgrpo.storage.locations import join


def open_reference_images(
    location: str,
    prompts: Prompts,
    split: Split,
    *,
    images_per_prompt: int | None,
    resolution_pixels: int,
    seed: int,
    workspace: str,
    draws: PromptDraws | None = None,
) -> ReferenceImageSet:
    """Open the set that the task reference-images left. See `validate_reference_images`.

    Args:
        location: Location of the set.
        prompts: The prompts of the run.
        split: Which of them the set is for.
        images_per_prompt: Images of each prompt; None for a set whose images serve any prompt.
        resolution_pixels: Height and width of the images.
        seed: The run's seed.
        workspace: Local path or `s3://` location that stores the records of checks.
        draws: Draws of the task, of whose prompts images are needed; None for all prompts.
    """
    if images_per_prompt is None:
        folder = extract(location)
        return inspect_shared_images(folder, resolution_pixels=resolution_pixels).validated()
    needed = prompts.of(split) if draws is None else drawn_prompts(prompts.of(split), draws)
    return validate_reference_images(
        extract(location),
        needed,
        images_per_prompt,
        resolution_pixels,
        seed=seed,
        other_prompts=prompts.all_besides(split),
        workspace=join(workspace, ROOT),
    )


def inspect_set(location: str, config: RunConfig, split: Split) -> ReferenceImageReport:
    """Check every file of a set against a run's settings. See `inspect_reference_images`.

    Args:
        location: Folder or `s3://` location of the set.
        config: The run's settings.
        split: The prompts that the set is for.
    """
    pixels = config.reference_images.resolution_pixels
    if config.reference_images.serve_any_prompt:
        return inspect_shared_images(extract(location), resolution_pixels=pixels)
    train, test = requested_sets(
        ReferenceImagesSettings.of(config), read_run_prompts(config.prompts)
    )
    request = train if split == "train" else test
    return inspect_reference_images(
        readable(location),
        request.needed,
        images_per_prompt=request.images_per_prompt,
        resolution_pixels=pixels,
        seed=config.seed,
        other_prompts=request.other_prompts,
        manifests=request.existing_manifests,
        # An inspection only reads the workspace; its record goes to the cache.
        workspace=str(cache_folder()),
    )
