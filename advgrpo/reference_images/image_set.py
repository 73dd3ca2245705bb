"""Reference images: what draws them, how a set is validated, how its images are read."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.errors import ReferenceImageError, StorageError
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.check_record import SoundFile, record_of
from advgrpo.reference_images.checks import (
    Problem,
    ProblemKind,
    check_files,
    commonest_side,
    file_problems,
    listing_problems,
    prompt_problems,
    repeated_content,
    unlisted_files,
)
from advgrpo.reference_images.manifest import (
    manifests_of,
    read_manifest,
    read_manifests,
    read_provenance,
)
from advgrpo.storage import file_sha256, storage_for

_LISTED = 12
_OF_PROMPTS = {ProblemKind.ABSENT_PROMPT, ProblemKind.UNKNOWN_PROMPT}


@runtime_checkable
class ReferenceImageSource(Protocol):
    """Something that draws images for prompts."""

    @property
    def provenance(self) -> Mapping[str, str | int | float]:
        """What it is and all settings that its images depend on; equal ones draw equal images."""
        ...

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Draw one image for each prompt.

        Args:
            prompts: What to draw.
            seeds: One per image, in [0, 2**63). An image depends on its prompt and seed only.

        Returns:
            RGB in [0, 1], float32.
        """
        ...


@dataclass(frozen=True)
class ReferenceImageReport:
    """What an inspection of a reference image set found."""

    folder: Path | str
    """Where the set lies: a folder or `s3://` location."""

    prompts: int
    """Prompts that were asked for."""

    images: int
    """Images that the set holds for them."""

    problems: tuple[Problem, ...]
    reference_images: ReferenceImageSet | None
    """The set, if it has no problem."""

    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> hash of its content, of all files that are sound."""

    def in_words(self) -> str:
        """Say it in a few lines."""
        size = f"{self.images} images for {self.prompts} prompts"
        if self.reference_images is None:
            return f"reference images in {self.folder}: {size}\n{self.problems_in_words()}"
        pixels, origin = self.reference_images.resolution_pixels, "without provenance"
        if self.reference_images.provenance:
            origin = "every content as its provenance says"
        return (
            f"reference images in {self.folder}: {size}, {pixels} x {pixels} pixels, {origin}\n"
            f"digest {self.reference_images.digest}\nno problems"
        )

    def validated(self) -> ReferenceImageSet:
        """Return the set.

        Raises:
            ReferenceImageError: If it has a problem. Counts all and lists the first dozen.
        """
        if self.reference_images is None:
            raise ReferenceImageError(
                f"reference images in {self.folder} cannot be used: {self.problems_in_words()}",
                repair=self._repair(),
            )
        return self.reference_images

    def _repair(self) -> str:
        if {problem.kind for problem in self.problems} & _OF_PROMPTS:
            return (
                "give the prompt files that the set was drawn for (prompts.train, prompts.test), "
                "or a manifest of their prompts alone (reference_images.existing_manifests); if "
                "advgrpo drew the set, draw it again into the same folder: what is whole is kept"
            )
        return (
            "restore the files from where they came from; if advgrpo drew the set, draw it again "
            "into the same folder: what is whole is kept. Nothing is substituted"
        )

    def problems_in_words(self) -> str:
        """Count the problems, and list the first dozen."""
        kinds: Counter[str] = Counter()
        for problem in self.problems:
            kinds[problem.kind.value] += problem.count
        counts = ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
        listed = "".join(f"\n  - {problem.text}" for problem in self.problems[:_LISTED])
        more = len(self.problems) - _LISTED
        total = kinds.total()
        found = f"{total} problem{'s' if total > 1 else ''}"
        return f"{found} ({counts}){listed}" + (f"\n  and {more} more" if more > 0 else "")


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
        folder: The set, a folder or `s3://` location: a manifest, the files and, if advgrpo drew
            it, `provenance.json`.
        prompts: What it must have images for.
        images_per_prompt: How many of each prompt. If the set has more, as many are drawn by lot.
        resolution_pixels: Height and width that all must have.
        seed: Decides the lot; the same images are chosen whatever the order of the prompts.
        other_prompts: Prompts that the set may hold besides, for instance the test prompts.
        manifests: The set's manifests, where they are named; image files that they do not list may
            then lie in the folder.
        workspace: Keeps what was found in each file, which is not looked at again until it changes;
            empty keeps nothing.

    Returns:
        Exactly `images_per_prompt` files for each prompt, each whole and unlike all others.

    Raises:
        ReferenceImageError: If anything is wrong. Counts all problems and lists the first dozen.
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
    """Check every file of a reference image set and report, as `validate_reference_images` does.

    Args:
        folder: The set.
        prompts: What it must have images for.
        images_per_prompt: How many of each prompt; None asks for one at least and takes all.
        resolution_pixels: Height and width that all must have; None asks that all are squares of
            the size that most have.
        seed: Decides which images are taken if there are more.
        other_prompts: Prompts that the set may hold besides.
        manifests: The set's manifests, where they are named.
        workspace: Keeps what was found in each file; empty keeps nothing.
    """
    try:
        lists = manifests_of(str(folder), manifests)
        manifest, provenance = read_manifests(lists), read_provenance(folder)
    except (ReferenceImageError, StorageError) as error:
        problem = Problem(ProblemKind.UNREADABLE_LIST, error.message)
        return ReferenceImageReport(folder, len(prompts), 0, (problem,), None)
    root = (provenance.images if provenance else "") or str(folder)
    listing = storage_for(root).list_files(root)
    listed = {prompt: manifest[prompt] for prompt in prompts.texts if prompt in manifest}
    names = list(dict.fromkeys(name for files in listed.values() for name in files))
    checks = check_files(root, names, listing, record_of(root, workspace) if workspace else None)
    pixels = resolution_pixels or commonest_side(checks.values())
    sha256 = {name: c.sha256 for name, c in checks.items() if isinstance(c, SoundFile)}
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
        return ReferenceImageReport(folder, len(prompts), images, problems, None, sha256)
    chosen = {
        prompt: _choose(files, images_per_prompt or len(files), prompt, seed)
        for prompt, files in listed.items()
    }
    reference_images = ReferenceImageSet(
        root=root,
        files=chosen,
        resolution_pixels=pixels,
        digest=digest_of(chosen, sha256),
        provenance=provenance.model_dump(exclude={"files", "images"}) if provenance else {},
        sha256=sha256,
    )
    return ReferenceImageReport(folder, len(prompts), images, (), reference_images, sha256)


def content_digest(location: str | Path) -> str:
    """Hash a set's prompts and files without looking at the images.

    Args:
        location: A whole set; hashes of contents are taken from its provenance, if it has one.

    Returns:
        The `digest` of the set, if all of its images are used.

    Raises:
        ReferenceImageError: If its manifest or provenance cannot be used.
        StorageError: If a file cannot be read.
    """
    manifest, provenance = read_manifest(location), read_provenance(location)
    names = {name for files in manifest.values() for name in files}
    sha256 = (
        provenance.files
        if provenance
        else {name: file_sha256(Path(location) / name) for name in names}
    )
    return digest_of(manifest, sha256)


def digest_of(files: Mapping[str, Sequence[str]], sha256: Mapping[str, str]) -> str:
    """Hash the prompts of a set with the names and contents of their files.

    Args:
        files: Prompt -> file names, in the order of their variation.
        sha256: File name -> hash of its content.

    Returns:
        SHA-256 in hexadecimal, whatever the order of the prompts.
    """
    entries = [
        [prompt, [[name, sha256[name]] for name in files[prompt]]] for prompt in sorted(files)
    ]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _choose(files: tuple[str, ...], count: int, prompt: str, seed: int) -> tuple[str, ...]:
    if count == len(files):
        return files
    lot = torch.randperm(
        len(files), generator=generator_for("choice of reference images", seed, prompt)
    )
    return tuple(files[position] for position in sorted(lot[:count].tolist()))
