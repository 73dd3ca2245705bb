"""Take up a reference image set where it lies: its images stay there, its lists are ours."""

from collections.abc import Sequence
from functools import lru_cache

from advgrpo import __version__
from advgrpo.config.tasks import ReferenceImagesSettings
from advgrpo.data.prompts import read_run_prompts
from advgrpo.errors import ReferenceImageError
from advgrpo.reference_images.image_set import (
    ReferenceImageReport,
    content_digest,
    inspect_reference_images,
)
from advgrpo.reference_images.manifest import (
    MANIFEST_FILE,
    Provenance,
    manifests_of,
    read_manifests,
    write_manifest,
    write_provenance,
)
from advgrpo.storage import exists, join, scheme
from advgrpo.storage.archives import extract, is_packed
from advgrpo.storage.fetch import local_folder

_SOURCE = "existing"


def existing_set(task: ReferenceImagesSettings, name: str) -> str | None:
    """Find where the images of a set lie already.

    Args:
        task: The settings.
        name: "train" or "test".

    Returns:
        Location of the set that has them; None if they are to be drawn.
    """
    config = task.reference_images
    if name == "test" and config.existing_test is not None:
        return config.existing_test
    if config.existing is None or name == "train":
        return config.existing
    place = readable(config.existing)
    manifest = read_manifests(manifests_of(place, config.existing_manifests))
    has_test = not set(read_run_prompts(task.prompts).test.texts).isdisjoint(manifest)
    return config.existing if has_test else None


def take_up(
    task: ReferenceImagesSettings, name: str, existing: str, *, target: str, workspace: str
) -> None:
    """Check a set that lies elsewhere, and write which of its images are used into the workspace.

    Nothing is written beside the images, and none is copied. A check that was interrupted goes on
    where it stopped.

    Args:
        task: The settings.
        name: "train" or "test".
        existing: Where the set lies.
        target: Gets `manifest.json` and `provenance.json`, which names where the images are.
        workspace: Keeps what was found in each file.

    Raises:
        ReferenceImageError: If the set cannot be used, or is not what it was when it was taken up.
        StorageError: If it cannot be read, or the lists cannot be written.
    """
    config, prompts = task.reference_images, read_run_prompts(task.prompts)
    is_train = name == "train"
    manifests = config.existing_manifests if existing == config.existing else ()
    place = readable(existing)
    report = inspect_reference_images(
        place,
        prompts.train if is_train else prompts.test,
        images_per_prompt=config.images_per_prompt if is_train else config.test_images_per_prompt,
        resolution_pixels=config.resolution_pixels,
        seed=task.seed,
        other_prompts=prompts.test if is_train else prompts.train,
        manifests=manifests,
        workspace=workspace,
    )
    found = report.validated()
    if is_archived(existing):
        return
    if not exists(join(target, MANIFEST_FILE)):
        _write_lists(report, target, manifests_of(place, manifests))
    elif content_digest(target) != found.digest:
        raise ReferenceImageError(
            f"the images in {existing} are not those that were taken up from there: their digest "
            f"was {content_digest(target)[:12]} and is {found.digest[:12]}",
            repair=f"restore them, or delete {target} to take them up as they are now",
        )


@lru_cache(maxsize=8)
def is_archived(location: str) -> bool:
    """Tell whether an existing set lies in archives; listing a large one takes many requests."""
    return is_packed(location)


def readable(location: str) -> str:
    """Name a set so that it means the same in every folder; unpack one of our archives."""
    if is_archived(location):
        return str(extract(location))
    return location if scheme(location) == "s3" else str(local_folder(location).absolute())


def _write_lists(report: ReferenceImageReport, target: str, manifests: Sequence[str]) -> None:
    found = report.validated()
    own = found.provenance
    source = {"type": _SOURCE, "location": str(report.folder), "manifests": ", ".join(manifests)}
    names = {name for files in found.files.values() for name in files}
    provenance = Provenance.model_validate(
        {
            "source": own.get("source", source),
            "seed": own.get("seed"),
            "resolution_pixels": found.resolution_pixels,
            "advgrpo_version": __version__,
            "images": str(found.root),
            "files": {name: report.sha256[name] for name in sorted(names)},
        }
    )
    write_provenance(target, provenance)
    write_manifest(target, found.files)
