"""Reports of inspected reference image sets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advgrpo.errors import ReferenceImageError
from advgrpo.records import ReferenceImageSet
from advgrpo.reference_images.checks import Problem, ProblemKind, describe_changes
from advgrpo.reference_images.manifest import MANIFEST_FILE

_LISTED = 12
_OF_PROMPTS = {ProblemKind.ABSENT_PROMPT, ProblemKind.UNKNOWN_PROMPT}


@dataclass(frozen=True)
class ReferenceImageReport:
    """Result of inspecting a reference image set."""

    folder: Path | str
    """Folder or `s3://` location of the set."""

    prompts: int
    """Requested prompts."""

    images: int
    """Images of the requested prompts."""

    problems: tuple[Problem, ...]
    reference_images: ReferenceImageSet | None
    """The set; None if it has problems."""

    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> SHA-256 of each valid file."""

    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """File name -> what is done to its pixels when it is read, if anything."""

    def __str__(self) -> str:
        """Return a summary of a few lines."""
        size = f"{self.images} images for {self.prompts} prompts"
        if self.reference_images is None:
            found = f"{describe_changes(self.changes)}\n{self.describe_problems()}"
            return f"reference images in {self.folder}: {size}{found}"
        pixels, origin = self.reference_images.resolution_pixels, "without provenance"
        if self.reference_images.provenance:
            origin = "contents match the provenance"
        return (
            f"reference images in {self.folder}: {size}, {pixels} x {pixels} pixels, {origin}\n"
            f"digest {self.reference_images.digest}{describe_changes(self.changes)}\nno problems"
        )

    def validated(self) -> ReferenceImageSet:
        """Return the set.

        Raises:
            ReferenceImageError: If it has problems. Counts all and lists the first dozen.
        """
        if self.reference_images is None:
            raise ReferenceImageError(
                f"reference images in {self.folder} cannot be used: {self.describe_problems()}",
                repair=self._repair(),
            )
        return self.reference_images

    def _repair(self) -> str:
        if {problem.kind for problem in self.problems} == {ProblemKind.UNREADABLE_LIST}:
            return (
                f'write {MANIFEST_FILE} as {{"<prompt>": ["<file name>", ...]}}, also if there are '
                "captions in .txt files next to the images; if advgrpo generated the set, generate "
                "it again into the same folder"
            )
        if {problem.kind for problem in self.problems} & _OF_PROMPTS:
            return (
                "set prompts.train and prompts.test to the files that the set was generated for, "
                "or reference_images.existing_manifests to a manifest of their prompts alone; if "
                "advgrpo generated the set, generate it again into the same folder: valid images "
                "are kept"
            )
        return (
            "restore the files from their source; if advgrpo generated the set, generate it again "
            "into the same folder: valid images are kept"
        )

    def describe_problems(self) -> str:
        """Return the number of problems of each kind, and the first dozen."""
        kinds: Counter[str] = Counter()
        for problem in self.problems:
            # A problem of prompts counts all of them.
            kinds[problem.kind.value] += problem.count
        counts = ", ".join(f"{kind}: {count}" for kind, count in kinds.items())
        listed = "".join(f"\n  - {problem.text}" for problem in self.problems[:_LISTED])
        more = len(self.problems) - _LISTED
        total = kinds.total()
        found = f"{total} problem{'s' if total > 1 else ''}"
        return f"{found} ({counts}){listed}" + (f"\n  and {more} more" if more > 0 else "")
