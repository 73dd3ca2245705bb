"""The two lists of a reference image set: which files a prompt has, and where they come from.

`manifest.json` maps a prompt to its file names, `{"<prompt>": ["a.png", "b.png"]}` or, for a single
file, `{"<prompt>": "a.png"}`; sets from elsewhere have this file only. `provenance.json` is ours.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from advgrpo.errors import ReferenceImageError
from advgrpo.storage import write_bytes
from advgrpo.storage.local import disk_errors

MANIFEST_FILE = "manifest.json"
PROVENANCE_FILE = "provenance.json"
_SURROGATE = re.compile("[\ud800-\udfff]")


class Origin(BaseModel):
    """What all images of a set have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: dict[str, str | int | float]
    """What drew them, and its settings."""

    seed: int
    """The seed that every image's own seed follows from."""

    resolution_pixels: int
    """Height and width."""


class Provenance(Origin):
    """Content of `provenance.json`."""

    advgrpo_version: str
    files: dict[str, str]
    """File name -> SHA-256 of its content, in hexadecimal."""


def read_manifest(folder: Path) -> dict[str, tuple[str, ...]]:
    """Read which files each prompt has.

    Returns:
        Prompt -> file names below the folder, in the order of the manifest. No name leads out of
        the folder; whether the files exist is not looked at.

    Raises:
        ReferenceImageError: If the manifest is missing, is no JSON, lists a prompt twice, or is of
            another shape.
        StorageError: If it cannot be read.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ReferenceImageError(
            f"{folder} is no reference image set: {MANIFEST_FILE} is missing",
            repair="give the folder that holds it; if a set is half made, let the task finish it",
        )
    with disk_errors("read", path):
        data = path.read_bytes()
    try:
        # Of a key that is repeated, json would silently keep the last value only.
        entries = json.loads(data, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise ReferenceImageError(
            f"{path} is not JSON in UTF-8: {error}", repair="restore it from where it came from"
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
            f"{path} cannot be used: {problems[0]}{more}",
            repair='write it as {"<prompt>": ["<file name>", ...], ...}',
        )
    return manifest


def write_manifest(folder: Path, files: Mapping[str, tuple[str, ...]]) -> None:
    """Write `manifest.json` at once; its presence means that the set is complete."""
    text = json.dumps({prompt: list(names) for prompt, names in files.items()}, indent=1)
    write_bytes(str(folder / MANIFEST_FILE), text.encode())


def read_provenance(folder: Path) -> Provenance | None:
    """Read where the files come from.

    Returns:
        None if the set has no `provenance.json`, as sets from elsewhere.

    Raises:
        ReferenceImageError: If the file is damaged.
        StorageError: If it cannot be read.
    """
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return None
    with disk_errors("read", path):
        data = path.read_bytes()
    try:
        return Provenance.model_validate_json(data)
    except ValidationError as error:
        raise ReferenceImageError(
            f"{path} is damaged: {error.errors()[0]['msg']}",
            repair="restore it; without it the set loads too, but its files cannot be checked",
        ) from error


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write `provenance.json` at once."""
    write_bytes(str(folder / PROVENANCE_FILE), provenance.model_dump_json(indent=1).encode())


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    is_plain = "\0" not in name and not _SURROGATE.search(name)
    return bool(parts) and not name.startswith("/") and ".." not in parts and is_plain
