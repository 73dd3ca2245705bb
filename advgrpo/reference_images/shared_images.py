"""Reference images that serve any prompt: validation, split and assignment to prompts.

The manifest of such a set has one key, the empty text, which is not a valid prompt. Training and
evaluation look up images by prompt, so images are assigned: all images for training to every
training prompt, and disjoint images to the prompts for metrics, so that none counts twice.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from advgrpo.algorithm.seeds import seed_for
from advgrpo.data.splits import split_prompts
from advgrpo.errors import ConfigError, ReferenceImageError
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.image_set import inspect_reference_images
from advgrpo.reference_images.report import ReferenceImageReport

ANY_PROMPT = ""


def inspect_shared_images(folder: Path, *, resolution_pixels: int) -> ReferenceImageReport:
    """Check every file of a set of images that serve any prompt. See `inspect_reference_images`."""
    # No prompt file has the empty text, so the digest is not used.
    any_prompt = PromptSet((ANY_PROMPT,), digest="")
    return inspect_reference_images(folder, any_prompt, resolution_pixels=resolution_pixels)


def is_test_image(sha256: str, fraction: float) -> bool:
    """Return whether an image is for the evaluation only; depends on its content alone."""
    # Seeds are uniform in [0, 2**63).
    return seed_for("test image", sha256) < fraction * 2**63


def assign_for_training(
    images: ReferenceImageSet, prompts: Sequence[str], *, held_out_fraction: float
) -> ReferenceImageSet:
    """Assign images to the trained and the held-out prompts.

    Args:
        images: A validated set. A set whose images belong to prompts is returned unchanged.
        prompts: All training prompts.
        held_out_fraction: Share of the prompts, and of the images, to hold out. Whether an image is
            held out depends on its content alone.

    Returns:
        A set with all trained images for every trained prompt, and at least one held-out image for
        each of the first held-out prompts. No held-out image belongs to two prompts, and the
        remaining held-out prompts have none.

    Raises:
        ReferenceImageError: If there are too few trained or held-out images.
    """
    if ANY_PROMPT not in images.files:
        return images
    # Sorted, so that the assignment does not depend on the order of the manifest.
    names = sorted(images.files[ANY_PROMPT])
    limit = held_out_fraction * 2**63
    # Drawn for another purpose than the test images: with the same numbers, all images below the
    # fraction would be gone already.
    is_held_out = {n: seed_for("held-out image", images.sha256[n]) < limit for n in names}
    held_out = [name for name in names if is_held_out[name]]
    training = tuple(name for name in names if not is_held_out[name])
    if len(held_out) < 2 or not training:
        raise ReferenceImageError(
            f"discriminator.held_out_fraction={held_out_fraction:g}: of the {len(names)} images in "
            f"{images.root}, {len(training)} are trained on and {len(held_out)} held out; at least "
            "1 and 2 are needed",
            repair="add images to the folder reference_images.source.location, or change the "
            "fraction",
        )
    split = split_prompts(prompts, held_out_fraction)
    # With fewer images than prompts, the remaining prompts get none instead of a shared one.
    with_images = [prompts[position] for position in split.held_out[: len(held_out)]]
    files = {prompts[position]: training for position in split.training}
    each = len(held_out) // len(with_images) if with_images else 0
    for number, prompt in enumerate(with_images):
        files[prompt] = tuple(held_out[number * each : (number + 1) * each])
    return replace(images, files=files)


def assign_for_evaluation(images: ReferenceImageSet, prompts: Sequence[str]) -> ReferenceImageSet:
    """Divide all images evenly among the prompts of an evaluation.

    Args:
        images: A validated set. A set whose images belong to prompts is returned unchanged.
        prompts: Prompts of the evaluation.

    Raises:
        ConfigError: If there are fewer images than prompts.
    """
    if ANY_PROMPT not in images.files:
        return images
    names = sorted(images.files[ANY_PROMPT])
    if len(names) < len(prompts):
        raise ConfigError(
            f"evaluation.prompts={len(prompts)}: only {len(names)} reference images are for "
            "testing (reference_images.source.test_fraction)",
            repair=f"set evaluation.prompts to {len(names)} or less and raise "
            "evaluation.images_per_prompt, or add images to the folder",
        )
    # Each prompt takes every n-th name, so that the numbers of images differ by one at most.
    files = {prompt: tuple(names[n :: len(prompts)]) for n, prompt in enumerate(prompts)}
    return replace(images, files=files)
