"""Requests for reference image sets: prompts, images per prompt, and the location of the result."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from advgrpo.algorithm.seeds import seed_for
from advgrpo.config.reference_images import FileFormat, FolderSource
from advgrpo.config.tasks import PromptDraws, ReferenceImagesSettings, digest
from advgrpo.data.prompts import SPLITS, Prompts, Split, subset
from advgrpo.errors import StorageNotFoundError
from advgrpo.records import PromptSet
from advgrpo.reference_images.manifest import LISTS_PART, manifests_of, read_manifests
from advgrpo.storage.archives import PART_PREFIX, PART_SUFFIX, extract, is_packed
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.files import is_remote, list_files, read_bytes, write_bytes
from advgrpo.storage.locations import join
from advgrpo.strict_json import load_json

ROOT = "reference_images"
"""Folder of a workspace that holds reference image sets and the records of their checks."""


@dataclass(frozen=True)
class PlannedImage:
    """An image of a set."""

    prompt: str
    variation: int
    name: str
    """Name of its file, which depends on prompt and variation alone."""

    seed: int


def plan_images(
    prompts: PromptSet, images_per_prompt: int, seed: int, file_format: FileFormat = "png"
) -> list[PlannedImage]:
    """Return the images of a set.

    Args:
        prompts: Prompts of the images.
        images_per_prompt: Variations of each prompt.
        seed: The run's seed.
        file_format: Suffix of the file names.

    Returns:
        One prompt after the other. File name and seed of an image depend on its prompt, its
        variation and the run's seed only, so they stay when prompts are added or reordered.
    """
    planned: list[PlannedImage] = []
    for prompt in prompts.texts:
        # Names and seeds must never change: existing sets would be generated again.
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


@dataclass(frozen=True)
class RequestedSet:
    """One of the two reference image sets of a run."""

    task: ReferenceImagesSettings
    split: Split
    prompts: PromptSet
    """All prompts of the split."""

    other_prompts: PromptSet
    """Prompts that the set may hold besides `needed`."""

    @cached_property
    def needed(self) -> PromptSet:
        """Prompts that need images: of the training prompts, those that the run draws."""
        if self.split == "test" or self.task.draws is None:
            return self.prompts
        # Needs torch, which the launcher's image lacks.
        from advgrpo.data.drawn_prompts import drawn_prompts  # noqa: PLC0415

        return drawn_prompts(self.prompts, self.task.draws)

    @property
    def images_per_prompt(self) -> int:
        """Images of each prompt."""
        config = self.task.reference_images
        return config.images_per_prompt if self.split == "train" else config.test_images_per_prompt

    @cached_property
    def existing(self) -> str | None:
        """Location of the existing set that holds the images; None if they must be generated."""
        config = self.task.reference_images
        if self.split == "test" and config.existing_test is not None:
            return config.existing_test
        if config.existing is None or self.split == "train":
            return config.existing
        manifests = manifests_of(readable(config.existing), self.existing_manifests)
        # An existing set may hold images of the training prompts only; those for the test are then
        # generated.
        has_test = not set(self.prompts.texts).isdisjoint(read_manifests(manifests))
        return config.existing if has_test else None

    @property
    def existing_manifests(self) -> Sequence[str]:
        """Manifests of `reference_images.existing`, unless this set has its own location."""
        config = self.task.reference_images
        own = self.split == "test" and config.existing_test not in {None, config.existing}
        return () if own else config.existing_manifests

    def is_generated(self, workspace: str) -> bool:
        """Return whether a workspace on S3 holds all images of a set to generate.

        Raises:
            StorageError: If its lists cannot be read.
        """
        config, location = self.task.reference_images, self.location(workspace)
        prompts = self._recorded(workspace)
        if prompts is None:
            return False
        planned = plan_images(prompts, self.images_per_prompt, self.task.seed, config.file_format)
        present = set(list_files(location))
        lists = [
            name
            for name in present
            if name.startswith(PART_PREFIX)
            and name.endswith(".json")
            and f"{name.removesuffix('.json')}{PART_SUFFIX}" in present
        ]
        if f"{LISTS_PART}.json" not in lists:
            return False
        saved = {
            file for name in lists for file in load_json(read_bytes(join(location, name)))["files"]
        }
        return saved.issuperset(image.name for image in planned)

    def record_needed(self, workspace: str) -> None:
        """Write which prompts are needed, for readers without torch, which cannot draw."""
        if self.split == "train" and self.task.draws is not None:
            position = {text: number for number, text in enumerate(self.prompts.texts)}
            drawn = [position[text] for text in self.needed.texts]
            write_bytes(self._record(workspace, self.task.draws), json.dumps(drawn).encode())

    def _recorded(self, workspace: str) -> PromptSet | None:
        """Read what `record_needed` wrote; None if these prompts were not drawn before."""
        if self.split == "test" or self.task.draws is None:
            return self.prompts
        try:
            drawn = load_json(read_bytes(self._record(workspace, self.task.draws)))
        except StorageNotFoundError:
            return None
        return subset(self.prompts, drawn)

    def _record(self, workspace: str, draws: PromptDraws) -> str:
        return join(f"{self.location(workspace)}-drawn", f"{digest(draws)}.json")

    def location(self, workspace: str) -> str:
        """Return the location of the set in a workspace.

        A set in archives is used in place: its manifest and provenance are archived with it.
        """
        if self.existing is not None and is_archived(self.existing):
            return self.existing
        # The digest of the prompts replaces their file in the key, so that moving the file keeps
        # the set.
        key = digest(self.task.cache_relevant(), self.input_digest)
        return join(workspace, ROOT, key, self.split)

    @cached_property
    def input_digest(self) -> str:
        """Digest of the prompts, or of the folder of pictures that is imported instead."""
        source = self.task.reference_images.source
        if isinstance(source, FolderSource):
            # Needs torch, which the launcher's image lacks.
            from advgrpo.reference_images.import_folder import folder_digest  # noqa: PLC0415

            return folder_digest(local_folder(source.location))
        return self.prompts.digest


def requested_sets(task: ReferenceImagesSettings, prompts: Prompts) -> list[RequestedSet]:
    """Return the sets of a run, the one for training first."""
    return [
        RequestedSet(task, split, prompts.of(split), prompts.all_besides(split)) for split in SPLITS
    ]


@lru_cache(maxsize=8)
def is_archived(location: str) -> bool:
    """Return whether a set is stored as archives; cached, as a large listing is many requests."""
    return is_packed(location)


def readable(location: str) -> str:
    """Return an absolute location of a set's files, after extracting them if they are archived."""
    # Only sets of advgrpo are archived; their lists are part of the archives.
    if is_archived(location):
        return str(extract(location))
    # Absolute, because the location is stored in the provenance and read by other processes.
    return location if is_remote(location) else str(local_folder(location).absolute())


def cost_file(location: str) -> str:
    """Return the location of the record of what generating a set cost."""
    return f"{location}-cost.json"
