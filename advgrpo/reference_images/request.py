"""Requests for reference image sets: prompts, images per prompt, and the location of the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from advgrpo.config.reference_images import FolderSource
from advgrpo.config.tasks import ReferenceImagesSettings, digest, without_prompt_files
from advgrpo.data.prompts import SPLITS, Prompts, Split
from advgrpo.records import PromptSet
from advgrpo.reference_images.import_folder import folder_digest
from advgrpo.reference_images.manifest import manifests_of, read_manifests
from advgrpo.storage.archives import extract, is_packed
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.files import is_remote
from advgrpo.storage.locations import join

ROOT = "reference_images"
"""Folder of a workspace that holds reference image sets and the records of their checks."""


@dataclass(frozen=True)
class RequestedSet:
    """One of the two reference image sets of a run."""

    task: ReferenceImagesSettings
    split: Split
    prompts: PromptSet
    other_prompts: PromptSet
    """Prompts of the other split, which an existing set may hold as well."""

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

    def location(self, workspace: str) -> str:
        """Return the location of the set in a workspace.

        A set in archives is used in place: its manifest and provenance are archived with it.
        """
        if self.existing is not None and is_archived(self.existing):
            return self.existing
        # The digest of the prompts replaces their file in the key, so that moving the file keeps
        # the set.
        key = digest(without_prompt_files(self.task), self.input_digest)
        return join(workspace, ROOT, key, self.split)

    @cached_property
    def input_digest(self) -> str:
        """Digest of the prompts, or of the folder of pictures that is imported instead."""
        source = self.task.reference_images.source
        if isinstance(source, FolderSource):
            return folder_digest(local_folder(source.location))
        return self.prompts.digest


def requested_sets(task: ReferenceImagesSettings, prompts: Prompts) -> list[RequestedSet]:
    """Return the sets of a run, the one for training first."""
    return [
        RequestedSet(task, split, prompts.of(split), prompts.other_than(split)) for split in SPLITS
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
