"""The two lists of a reference image set: which files a prompt has, and where they come from.

`manifest.json` maps a prompt to its file names, `{"<prompt>": ["a.png", "b.png"]}` or, for a single
file, `{"<prompt>": "a.png"}`; sets from elsewhere have this file only, or one or several whose
names start with `prompt2img`. `provenance.json` is ours; of a set that is used where it lies, it
names that place and stands elsewhere.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from advgrpo.errors import ReferenceImageError
from advgrpo.storage import exists, join, list_files, read_bytes, write_bytes

MANIFEST_FILE = "manifest.json"
PROVENANCE_FILE = "provenance.json"
_ELSEWHERE_PREFIX = "prompt2img"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Origin(BaseModel):
    """What all images of a set have in common."""

    # JSON has no word for what is not finite.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: dict[str, str | int | float]
    """What drew them, and its settings."""

    seed: int | None
    """The seed that every image's own seed follows from; None if nobody knows it."""

    resolution_pixels: int
    """Height and width."""


class Provenance(Origin):
    """Content of `provenance.json`."""

    advgrpo_version: str
    images: str = ""
    """Where the files lie, if they do not lie beside this one: a folder or `s3://` location."""

    files: dict[str, str]
    """File name -> SHA-256 of its content, in hexadecimal."""


def manifests_of(location: str, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Find a set's manifests.

    Args:
        location: Folder or `s3://` location of the set.
        given: Manifests that are named; they are taken, and no other.

    Returns:
        Those given; else `manifest.json`; else all files whose names start with `prompt2img`.

    Raises:
        ReferenceImageError: If there is none.
        StorageError: If the place cannot be looked at.
    """
    if given:
        return tuple(given)
    if exists(join(location, MANIFEST_FILE)):
        return (join(location, MANIFEST_FILE),)
    found = [
        join(location, name)
        for name in list_files(location)
        if name.startswith(_ELSEWHERE_PREFIX) and name.endswith(".json") and "/" not in name
    ]
    if not found:
        raise ReferenceImageError(
            f"{location} is no reference image set: {MANIFEST_FILE} is missing, and so is any "
            f"{_ELSEWHERE_PREFIX}*.json",
            repair="give the folder that holds it, or name the manifest with "
            "reference_images.existing_manifests; if a set is half made, let the task finish it",
        )
    return tuple(found)


def read_manifests(locations: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read which files each prompt has.

    Args:
        locations: Manifests of one set. A prompt that several list has the files of all of them.

    Returns:
        Prompt -> file names below the folder, in the order of the manifests. No name leads out of
        the folder; whether the files exist is not looked at.

    Raises:
        ReferenceImageError: If a manifest is no JSON, lists a prompt twice or none at all, or is of
            another shape.
        StorageError: If it cannot be read.
    """
    merged: dict[str, tuple[str, ...]] = {}
    for location in locations:
        for prompt, names in _parsed(read_bytes(location), location).items():
            merged[prompt] = (*merged.get(prompt, ()), *names)
    if not merged:
        raise ReferenceImageError(
            f"{' and '.join(locations)} list no prompt",
            repair="restore what they held from where the set came from",
        )
    if len(locations) > 1:
        return {prompt: tuple(dict.fromkeys(names)) for prompt, names in merged.items()}
    return merged


def read_manifest(location: str | Path) -> dict[str, tuple[str, ...]]:
    """Read which files each prompt of a set has; see `manifests_of` and `read_manifests`."""
    return read_manifests(manifests_of(str(location)))


def _parsed(data: bytes, where: str) -> dict[str, tuple[str, ...]]:
    try:
        # Of a key that is repeated, json would silently keep the last value only.
        entries = json.loads(data, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise ReferenceImageError(
            f"{where} is not JSON in UTF-8: {error}", repair="restore it from where it came from"
        ) from error
    problems: list[str] = []
    manifest: dict[str, tuple[str, ...]] = {}
    # A JSON object is now a list of pairs, a JSON array a list of other things.
    if not isinstance(entries, list) or not all(isinstance(entry, tuple) for entry in entries):
        problems.append("it is not an object of prompts")
        entries = []
    for prompt, value in entries:
        names = [value] if isinstance(value, str) else value
        if prompt in manifest:
            problems.append(f"the prompt {prompt!r} is listed twice")
        elif not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            problems.append(f"the value of {prompt!r} is not a list of file names")
        elif outside := [name for name in names if not _is_inside(name)]:
            problems.append(f"{outside[0]!r}, of {prompt!r}, is no name inside the folder")
        else:
            manifest[prompt] = tuple(PurePosixPath(name).as_posix() for name in names)
    if problems:
        more = f", and {len(problems) - 1} more like this" if len(problems) > 1 else ""
        raise ReferenceImageError(
            f"{where} cannot be used: {problems[0]}{more}",
            repair='write it as {"<prompt>": ["<file name>", ...], ...}',
        )
    return manifest


def write_manifest(location: str | Path, files: Mapping[str, tuple[str, ...]]) -> None:
    """Write `manifest.json` at once; its presence means that the set is complete."""
    text = json.dumps({prompt: list(names) for prompt, names in files.items()}, indent=1)
    write_bytes(join(str(location), MANIFEST_FILE), text.encode())


def read_provenance(location: str | Path) -> Provenance | None:
    """Read where the files come from.

    Args:
        location: Folder or `s3://` location of the set.

    Returns:
        None if the set has no `provenance.json`, as sets from elsewhere.

    Raises:
        ReferenceImageError: If the file is damaged.
        StorageError: If it cannot be read.
    """
    path = join(str(location), PROVENANCE_FILE)
    if not exists(path):
        return None
    try:
        return Provenance.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise ReferenceImageError(
            f"{path} is damaged: {error.errors()[0]['msg']}",
            repair="restore it; without it the set loads too, but its files cannot be checked",
        ) from error


def write_provenance(location: str | Path, provenance: Provenance) -> None:
    """Write `provenance.json` at once."""
    write_bytes(join(str(location), PROVENANCE_FILE), provenance.model_dump_json(indent=1).encode())


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    is_plain = "\0" not in name and not _SURROGATE.search(name)
    return bool(parts) and not name.startswith("/") and ".." not in parts and is_plain
