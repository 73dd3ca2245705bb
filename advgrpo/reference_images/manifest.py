"""Manifest and provenance of a reference image set.

`manifest.json` maps a prompt to its file names, `{"<prompt>": ["a.png", "b.png"]}` or, for a single
file, `{"<prompt>": "a.png"}`. External sets have this file only, or one or several files whose
names start with `prompt2img`. advgrpo adds `provenance.json`. For an external set that is used in
place, both lists are stored in the workspace, and the provenance refers to the images.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from advgrpo.errors import ReferenceImageError
from advgrpo.storage.files import exists, list_files, read_bytes, write_bytes
from advgrpo.storage.locations import join
from advgrpo.strict_json import RepeatedKeyError, load_json, unique_keys

MANIFEST_FILE = "manifest.json"
PROVENANCE_FILE = "provenance.json"
LISTS_PART = "part-lists"
"""Archive of both in a set of archives, which is written last."""

_EXTERNAL_PREFIX = "prompt2img"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Origin(BaseModel):
    """Source, seed and resolution of a set's images."""

    # JSON cannot represent NaN and infinity.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: dict[str, str | int | float]
    """Source of the images, with its settings."""

    seed: int | None
    """Seed from which the images' seeds are derived; None if unknown."""

    resolution_pixels: int
    """Height and width."""


class Provenance(Origin):
    """Content of `provenance.json`."""

    advgrpo_version: str
    images: str = ""
    """Folder or `s3://` location of the files, if they are stored elsewhere."""

    files: dict[str, str]
    """File name -> SHA-256 of its content, in hexadecimal."""


def manifests_of(location: str, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the locations of a set's manifests.

    Args:
        location: Folder or `s3://` location of the set.
        given: Manifests from the settings; empty searches the set's location.

    Returns:
        `given` if it is not empty; else `manifest.json`; else all `prompt2img*.json`.

    Raises:
        ReferenceImageError: If there is no manifest.
        StorageError: If the location cannot be listed.
    """
    if given:
        return tuple(given)
    if exists(join(location, MANIFEST_FILE)):
        return (join(location, MANIFEST_FILE),)
    found = [
        join(location, name)
        for name in list_files(location)
        if name.startswith(_EXTERNAL_PREFIX) and name.endswith(".json") and "/" not in name
    ]
    if not found:
        raise ReferenceImageError(
            f"{location} is not a reference image set: it has neither {MANIFEST_FILE} nor "
            f"{_EXTERNAL_PREFIX}*.json",
            repair="use the folder that holds a manifest, or set "
            "reference_images.existing_manifests to it; if the set is incomplete, run the task "
            "reference-images again to complete it",
        )
    return tuple(found)


def read_manifests(locations: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read the files of each prompt.

    Args:
        locations: Manifests of one set. A prompt in several manifests has the files of all of them.

    Returns:
        Prompt -> file names relative to the folder, in the order of the manifests. No name leads
        out of the folder. The files may not exist.

    Raises:
        ReferenceImageError: If a manifest is not JSON, has a prompt twice or no prompts, or has
            another structure.
        StorageError: If a manifest cannot be read.
    """
    merged: dict[str, tuple[str, ...]] = {}
    for location in locations:
        for prompt, names in _parsed(read_bytes(location), location).items():
            merged[prompt] = (*merged.get(prompt, ()), *names)
    if not merged:
        raise ReferenceImageError(
            f"{' and '.join(locations)} list no prompts",
            repair="restore the manifests from the source of the set",
        )
    # Manifests of one set may overlap. In a single one, a repeated name is an error that the checks
    # report.
    if len(locations) > 1:
        return {prompt: tuple(dict.fromkeys(names)) for prompt, names in merged.items()}
    return merged


def read_manifest(location: str | Path) -> dict[str, tuple[str, ...]]:
    """Read the files of each prompt of a set. See `manifests_of` and `read_manifests`."""
    return read_manifests(manifests_of(str(location)))


def _parsed(data: bytes, where: str) -> dict[str, tuple[str, ...]]:
    try:
        entries = load_json(data)
    except RepeatedKeyError as error:
        raise ReferenceImageError(
            f"{where} cannot be used: {error}",
            repair="write each prompt once, with the list of all its files",
        ) from error
    except ValueError as error:
        raise ReferenceImageError(
            f"{where} is not JSON in UTF-8: {error}", repair="restore it from the source of the set"
        ) from error
    problems: list[str] = []
    manifest: dict[str, tuple[str, ...]] = {}
    if not isinstance(entries, dict):
        problems.append("it is not an object of prompts")
        entries = {}
    for prompt, value in entries.items():
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            problems.append(f"the value of {prompt!r} is not a list of file names")
        elif outside := [name for name in names if not _is_inside(name)]:
            problems.append(f"{outside[0]!r}, of {prompt!r}, is not a name inside the folder")
        else:
            # Names are compared with those of a listing, which never have "./" or a double slash.
            manifest[prompt] = tuple(PurePosixPath(name).as_posix() for name in names)
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ReferenceImageError(
            f"{where} cannot be used: {problems[0]}{more}",
            repair='write it as {"<prompt>": ["<file name>", ...], ...}',
        )
    return manifest


def write_manifest(location: str | Path, files: Mapping[str, tuple[str, ...]]) -> None:
    """Write `manifest.json` atomically; its presence marks the set as complete."""
    text = json.dumps({prompt: list(names) for prompt, names in files.items()}, indent=1)
    write_bytes(join(str(location), MANIFEST_FILE), text.encode())


def read_provenance(location: str | Path) -> Provenance | None:
    """Read the provenance of a set.

    Args:
        location: Folder or `s3://` location of the set.

    Returns:
        None if the set has no `provenance.json`, like external sets.

    Raises:
        ReferenceImageError: If the file is damaged.
        StorageError: If it cannot be read.
    """
    path = join(str(location), PROVENANCE_FILE)
    if not exists(path):
        return None
    try:
        return Provenance.model_validate_json(unique_keys(read_bytes(path)))
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ReferenceImageError(
            f"{path} is damaged: {reason}",
            repair="restore it, or delete it to use the set without checks of its contents",
        ) from error


def write_provenance(location: str | Path, provenance: Provenance) -> None:
    """Write `provenance.json` atomically."""
    write_bytes(join(str(location), PROVENANCE_FILE), provenance.model_dump_json(indent=1).encode())


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    # Neither NUL nor a surrogate can be part of a file name.
    is_plain = "\0" not in name and not _SURROGATE.search(name)
    return bool(parts) and not name.startswith("/") and ".." not in parts and is_plain
