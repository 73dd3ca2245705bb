"""Records of checked image files, so that an unchanged file is checked only once."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from advgrpo.storage.base import FileState
from advgrpo.storage.cache import cache_folder
from advgrpo.storage.files import list_files, read_bytes, write_bytes
from advgrpo.storage.locations import join, scheme
from advgrpo.strict_json import load_json

_FOLDER = "checked"


@dataclass(frozen=True)
class ValidFile:
    """Result of checking a file: it is valid."""

    sha256: str
    """SHA-256 of the content, in hexadecimal."""

    height: int
    width: int
    changes: tuple[str, ...] = ()
    """What is done to the stored pixels when the file is read."""


class CheckRecord:
    """Stored results of a check, in parts, so that an interruption loses few of them.

    A result is valid while the size and the modification time of its file, or its ETag in an object
    store, are those of the listing.

    Args:
        location: Folder or `s3://` location of the record.
    """

    def __init__(self, location: str) -> None:
        self._location = location

    def known(self, listing: Mapping[str, FileState]) -> dict[str, ValidFile]:
        """Return the results for files that have not changed since their check."""
        known: dict[str, ValidFile] = {}
        for part in list_files(self._location):
            for line in read_bytes(join(self._location, part)).splitlines():
                try:
                    # The wrong number of fields is a ValueError, and an entry that is not a list a
                    # TypeError.
                    name, size, version, sha256, height, width, changes = load_json(line)
                    state = FileState(size, version)
                    if listing.get(name) == state:
                        known[name] = ValidFile(sha256, height, width, tuple(changes))
                except (ValueError, TypeError):
                    # Damaged by a power failure; the file is checked again.
                    continue
        return known

    def add(self, found: Mapping[str, ValidFile], listing: Mapping[str, FileState]) -> None:
        """Store results."""
        lines = [
            json.dumps([name, *listing[name], file.sha256, file.height, file.width, file.changes])
            for name, file in found.items()
        ]
        if lines:
            # A random name for each part: workers may check the same set at once, and an object
            # store cannot append.
            name = f"{uuid.uuid4().hex}.jsonl"
            write_bytes(join(self._location, name), "\n".join(lines).encode())


def record_of(root: str, workspace: str) -> CheckRecord:
    """Return the record of a set.

    Args:
        root: Folder or `s3://` location of the images.
        workspace: Location for the record. The record of a cached copy is stored in the cache: its
            modification times mean nothing to other machines.
    """
    is_copy = not scheme(root) and Path(root).is_relative_to(cache_folder())
    place = str(cache_folder()) if is_copy else workspace
    # The location, not the content, is the key: the state of each file shows whether its result is
    # still valid.
    return CheckRecord(join(place, _FOLDER, hashlib.sha256(root.encode()).hexdigest()[:16]))
