"""What a check of a reference image set found already, so that it is not begun anew."""

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from advgrpo.storage import (
    FileState,
    cache_folder,
    join,
    list_files,
    read_bytes,
    scheme,
    write_bytes,
)
from advgrpo.strict_json import load_json

_FOLDER = "checked"


@dataclass(frozen=True)
class SoundFile:
    """What was found in a file that can be used."""

    sha256: str
    """Of the content, in hexadecimal."""

    height: int
    width: int


class CheckRecord:
    """Keeps what was found, in parts of some files each, so that an interruption loses little.

    A file is known as long as its size and its time of change, or its tag in an object store, are
    those of the listing.

    Args:
        location: Folder or `s3://` location of the record.
    """

    def __init__(self, location: str) -> None:
        self._location = location

    def known(self, listing: Mapping[str, FileState]) -> dict[str, SoundFile]:
        """Find the files that were looked at in their present state."""
        known: dict[str, SoundFile] = {}
        for part in list_files(self._location):
            for line in read_bytes(join(self._location, part)).splitlines():
                try:
                    name, size, version, sha256, height, width = load_json(line)
                    state = FileState(size, version)
                    if listing.get(name) == state:
                        known[name] = SoundFile(sha256, height, width)
                except (ValueError, TypeError):
                    # Damaged by a power cut; its file is looked at again.
                    continue
        return known

    def add(self, found: Mapping[str, SoundFile], listing: Mapping[str, FileState]) -> None:
        """Keep what was found."""
        lines = [
            json.dumps([name, *listing[name], file.sha256, file.height, file.width])
            for name, file in found.items()
        ]
        if lines:
            name = f"{uuid.uuid4().hex}.jsonl"
            write_bytes(join(self._location, name), "\n".join(lines).encode())


def record_of(root: str, workspace: str) -> CheckRecord:
    """Find the record of a set.

    Args:
        root: Where its images lie.
        workspace: Keeps the record, unless the images are this machine's own copy.
    """
    is_copy = not scheme(root) and Path(root).is_relative_to(cache_folder())
    place = str(cache_folder()) if is_copy else workspace
    return CheckRecord(join(place, _FOLDER, hashlib.sha256(root.encode()).hexdigest()[:16]))
