"""Validation and digests of reference image sets."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from advgrpo.algorithm.randomness import generator_for
from advgrpo.errors import ReferenceImageError, StorageError
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.check_record import ValidFile, record_of
from advgrpo.reference_images.checks import (
    Problem,
    ProblemKind,
    check_files,
    file_problems,
    listing_problems,
    most_common_side,
    prompt_problems,
    repeated_content,
    unlisted_files,
)
from advgrpo.reference_images.manifest import (
    manifests_of,
    read_manifests,
    read_provenance,
)
from advgrpo.reference_images.report import ReferenceImageReport
from advgrpo.storage.files import storage_for


def validate_reference_images(
    folder: Path | str,
    prompts: PromptSet,
    images_per_prompt: int,
    resolution_pixels: int,
    *,
    seed: int,
    other_prompts: PromptSet | None = None,
    manifests: Sequence[str] = (),
    workspace: str = "",
) -> ReferenceImageSet:
    """Check every file of a reference image set.

    Args:
        folder: Folder or `s3://` location of the set: a manifest, the files and, if advgrpo
            generated it, `provenance.json`.
        prompts: Prompts that need images.
        images_per_prompt: Images of each prompt. If the set has more, a random subset is used.
        resolution_pixels: Height and width of all images.
        seed: Seed of the random choice, which does not depend on the order of the prompts.
        other_prompts: Further prompts that the set may hold, for instance the test prompts.
        manifests: Manifests of the set; empty searches the folder. With them, the folder may hold
            images that no manifest lists.
        workspace: Local path or `s3://` location that stores the results of the check by file, so
            that an unchanged file is not read again; empty stores nothing.

    Returns:
        Exactly `images_per_prompt` distinct valid files for each prompt.

    Raises:
        ReferenceImageError: If there are problems. Counts all and lists the first dozen.
    """
    return inspect_reference_images(
        folder,
        prompts,
        images_per_prompt=images_per_prompt,
        resolution_pixels=resolution_pixels,
        seed=seed,
        other_prompts=other_prompts,
        manifests=manifests,
        workspace=workspace,
    ).validated()


def inspect_reference_images(
    folder: Path | str,
    prompts: PromptSet,
    *,
    images_per_prompt: int | None = None,
    resolution_pixels: int | None = None,
    seed: int = 0,
    other_prompts: PromptSet | None = None,
    manifests: Sequence[str] = (),
    workspace: str = "",
) -> ReferenceImageReport:
    """Check every file of a reference image set. See `validate_reference_images`.

    Args:
        folder: Folder or `s3://` location of the set.
        prompts: Prompts that need images.
        images_per_prompt: Images of each prompt; None uses all, and requires at least one.
        resolution_pixels: Height and width of all images; None for squares of the size that most
            images have.
        seed: Seed of the random choice.
        other_prompts: Further prompts that the set may hold.
        manifests: Manifests of the set; empty searches the folder.
        workspace: Location of the results by file; empty stores nothing.
    """
    try:
        lists = manifests_of(str(folder), manifests)
        manifest, provenance = read_manifests(lists), read_provenance(folder)
    # Without lists, nothing else can be checked; the caller still expects a report.
    except (ReferenceImageError, StorageError) as error:
        problem = Problem(ProblemKind.UNREADABLE_LIST, error.message)
        return ReferenceImageReport(folder, len(prompts), 0, (problem,), None)
    root = (provenance.images if provenance else "") or str(folder)
    listing = storage_for(root).list_files(root)
    # Only images of the requested prompts are read: a set for both splits may be several times
    # larger.
    listed = {prompt: manifest[prompt] for prompt in prompts.texts if prompt in manifest}
    # Repeated names are reported as problems below, and need to be checked only once.
    names = list(dict.fromkeys(name for files in listed.values() for name in files))
    checks = check_files(root, names, listing, record_of(root, workspace) if workspace else None)
    pixels = resolution_pixels or most_common_side(checks.values())
    valid = {name: check for name, check in checks.items() if isinstance(check, ValidFile)}
    sha256 = {name: check.sha256 for name, check in valid.items()}
    changes = {name: check.changes for name, check in valid.items() if check.changes}
    # With manifests from the settings, or images stored elsewhere, unlisted files are no error.
    is_whole_folder = root == str(folder) and not manifests
    problems = (
        *prompt_problems(
            manifest,
            prompts,
            images_per_prompt or 1,
            others=other_prompts,
            where=" and ".join(lists),
        ),
        *listing_problems(manifest),
        *file_problems(checks, pixels, provenance),
        *repeated_content(sha256),
        *(unlisted_files(listing, manifest) if is_whole_folder else ()),
    )
    images = sum(len(files) for files in listed.values())
    if problems:
        return ReferenceImageReport(folder, len(prompts), images, problems, None, sha256, changes)
    # After the checks, so that a damaged image is an error even if it would not be chosen.
    chosen = {
        prompt: _choose(files, images_per_prompt or len(files), prompt, seed)
        for prompt, files in listed.items()
    }
    reference_images = ReferenceImageSet(
        root=root,
        files=chosen,
        resolution_pixels=pixels,
        digest=digest_of(chosen, sha256),
        # Without what grows with the number of images or depends on where the set is stored.
        provenance=provenance.model_dump(exclude={"files", "images"}) if provenance else {},
        sha256=sha256,
    )
    return ReferenceImageReport(folder, len(prompts), images, (), reference_images, sha256, changes)


def digest_of(files: Mapping[str, Sequence[str]], sha256: Mapping[str, str]) -> str:
    """Return the digest of a set's prompts, file names and file contents.

    Args:
        files: Prompt -> file names, in the order of their variation.
        sha256: File name -> SHA-256 of its content.

    Returns:
        SHA-256 in hexadecimal. It does not depend on the order of the prompts.
    """
    entries = [
        [prompt, [[name, sha256[name]] for name in files[prompt]]] for prompt in sorted(files)
    ]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _choose(files: tuple[str, ...], count: int, prompt: str, seed: int) -> tuple[str, ...]:
    if count == len(files):
        return files
    order = torch.randperm(
        len(files), generator=generator_for("choice of reference images", seed, prompt)
    )
    # Sorted, to keep the order of the manifest: only the choice is random.
    return tuple(files[position] for position in sorted(order[:count].tolist()))
