"""Reference images that serve any prompt: how they are validated, split and dealt to prompts.

Such a set's manifest has one key, the empty text, which no prompt can be. What trains and measures
asks for the images of a prompt, so they are dealt: to each training prompt all that train, to each
prompt that measures some of its own, so that no image is counted twice.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from advgrpo.algorithm.seeds import seed_for
from advgrpo.data.splits import split_prompts
from advgrpo.errors import ConfigError, ReferenceImageError
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.image_set import ReferenceImageReport, inspect_reference_images

ANY_PROMPT = ""


def inspect_shared_images(folder: Path, *, resolution_pixels: int) -> ReferenceImageReport:
    """Check every file of a set of images that serve any prompt. See `inspect_reference_images`."""
    any_prompt = PromptSet((ANY_PROMPT,), digest="")
    return inspect_reference_images(folder, any_prompt, resolution_pixels=resolution_pixels)


def is_test_image(sha256: str, fraction: float) -> bool:
    """Tell whether only the evaluation measures against an image, by its content alone."""
    return seed_for("test image", sha256) < fraction * 2**63


def deal_for_training(
    images: ReferenceImageSet, prompts: Sequence[str], *, held_out_fraction: float
) -> ReferenceImageSet:
    """Give training prompts the images that train, and held-out prompts those that measure.

    Args:
        images: A validated set; one whose images belong to prompts is returned as it is.
        prompts: All training prompts.
        held_out_fraction: Share of the prompts, and of the images, that only measure. Whether an
            image does depends on its content alone.

    Returns:
        A set with all training images for each training prompt, and one image or more for each of
        the first held-out prompts, none for two. Held-out prompts beyond have none.

    Raises:
        ReferenceImageError: If there are too few images to train on and to measure.
    """
    if ANY_PROMPT not in images.files:
        return images
    names = sorted(images.files[ANY_PROMPT])
    limit = held_out_fraction * 2**63
    metrics = [seed_for("held-out image", images.sha256[name]) < limit for name in names]
    measuring = [name for name, does in zip(names, metrics, strict=True) if does]
    training = tuple(name for name, does in zip(names, metrics, strict=True) if not does)
    if len(measuring) < 2 or not training:
        raise ReferenceImageError(
            f"of the {len(names)} images in {images.root}, {len(training)} train and "
            f"{len(measuring)} measure (discriminator.held_out_fraction={held_out_fraction:g}); at "
            "least 1 and 2 are needed",
            repair="put more images into the folder in reference_images.source.location, or change "
            "the fraction",
        )
    split = split_prompts(prompts, held_out_fraction)
    measured = [prompts[position] for position in split.held_out[: len(measuring)]]
    files = {prompts[position]: training for position in split.training}
    each = len(measuring) // len(measured) if measured else 0
    for number, prompt in enumerate(measured):
        files[prompt] = tuple(measuring[number * each : (number + 1) * each])
    return replace(images, files=files)


def deal_for_measuring(images: ReferenceImageSet, prompts: Sequence[str]) -> ReferenceImageSet:
    """Give each prompt of an evaluation images of its own, until none is left.

    Args:
        images: A validated set; one whose images belong to prompts is returned as it is.
        prompts: Those of the evaluation.

    Raises:
        ConfigError: If there are fewer images than prompts.
    """
    if ANY_PROMPT not in images.files:
        return images
    names = sorted(images.files[ANY_PROMPT])
    if len(names) < len(prompts):
        raise ConfigError(
            f"the evaluation draws for {len(prompts)} prompts (evaluation.prompts), but only "
            f"{len(names)} images are there to measure against (reference_images.source."
            "test_fraction)",
            repair=f"set evaluation.prompts to {len(names)} or less and raise "
            "evaluation.images_per_prompt, or put more images into the folder",
        )
    dealt = {prompt: tuple(names[n :: len(prompts)]) for n, prompt in enumerate(prompts)}
    return replace(images, files=dealt)
