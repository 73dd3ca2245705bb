"""Import of an existing reference image set: the images stay in place, the lists are copied."""

from collections.abc import Mapping, Sequence

from advgrpo import __version__
from advgrpo.errors import ReferenceImageError
from advgrpo.records import ReferenceImageSet
from advgrpo.reference_images.image_set import digest_of, inspect_reference_images
from advgrpo.reference_images.manifest import (
    MANIFEST_FILE,
    Provenance,
    manifests_of,
    read_manifest,
    read_provenance,
    write_manifest,
    write_provenance,
)
from advgrpo.reference_images.request import ROOT, RequestedSet, is_archived, readable
from advgrpo.storage.files import exists
from advgrpo.storage.locations import join

_SOURCE = "existing"


def import_existing(request: RequestedSet, existing: str, workspace: str) -> None:
    """Check an existing set, and write the list of its used images to the workspace.

    The folder of the images is not written to, and no image is copied. An interrupted check resumes
    where it stopped.

    Args:
        request: The set to import. Its location gets `manifest.json` and `provenance.json`, which
            refers to the images. Prompts that an earlier run needed stay in them.
        existing: Location of the existing set.
        workspace: Local path or `s3://` location that stores the lists and the record of the check.

    Raises:
        ReferenceImageError: If the set cannot be used, or has changed since an earlier import.
        StorageError: If it cannot be read, or the lists cannot be written.
    """
    task, target = request.task, request.location(workspace)
    # A set in archives must be extracted before its lists can be read.
    place = readable(existing)
    report = inspect_reference_images(
        place,
        request.needed,
        images_per_prompt=request.images_per_prompt,
        resolution_pixels=task.reference_images.resolution_pixels,
        seed=task.seed,
        other_prompts=request.other_prompts,
        manifests=request.existing_manifests,
        workspace=join(workspace, ROOT),
    )
    images = report.validated()
    # A set in archives is used in place and has its own lists.
    if is_archived(existing):
        return
    listed = read_manifest(target) if exists(join(target, MANIFEST_FILE)) else {}
    before = read_provenance(target) if listed else None
    sha256 = dict(before.files) if before else {}
    both = listed.keys() & images.files.keys()
    # A changed set is refused, not imported again: results in the workspace used the former images.
    former = digest_of({prompt: listed[prompt] for prompt in both}, sha256)
    found = digest_of({prompt: images.files[prompt] for prompt in both}, images.sha256)
    if former != found:
        raise ReferenceImageError(
            f"the images in {existing} have changed since they were imported: their digest was "
            f"{former[:12]} and is {found[:12]}",
            repair=f"restore them, or delete {target} to import them again",
        )
    if len(both) < len(images.files):
        manifests = manifests_of(place, request.existing_manifests)
        _write_lists(
            images, {**listed, **images.files}, {**sha256, **images.sha256}, target, manifests
        )


def _write_lists(
    images: ReferenceImageSet,
    files: Mapping[str, tuple[str, ...]],
    sha256: Mapping[str, str],
    target: str,
    manifests: Sequence[str],
) -> None:
    source = {"type": _SOURCE, "location": str(images.root), "manifests": ", ".join(manifests)}
    names = {name for of_prompt in files.values() for name in of_prompt}
    provenance = Provenance.model_validate(
        {
            # The original source is kept if advgrpo generated the set.
            "source": images.provenance.get("source", source),
            "seed": images.provenance.get("seed"),
            "resolution_pixels": images.resolution_pixels,
            "advgrpo_version": __version__,
            "images": str(images.root),
            "files": {name: sha256[name] for name in sorted(names)},
        }
    )
    write_provenance(target, provenance)
    # The manifest makes it a set, so it is written last.
    write_manifest(target, files)
