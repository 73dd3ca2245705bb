"""What weights hold, told without reading a large file twice."""

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from advgrpo.config.base import Weights
from advgrpo.errors import StorageError, WeightsError
from advgrpo.storage.base import READ_SUFFIXES, join, scheme
from advgrpo.storage.cache import cache_folder
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.files import storage_for, write_bytes
from advgrpo.storage.folders import file_sha256
from advgrpo.storage.local import disk_errors
from advgrpo.telemetry.logging import event

_LARGE_BYTES = 16 * 2**20
"""A smaller file is read again faster than it is looked up."""

_THREADS = 8

logger = logging.getLogger("advgrpo")


def content_of(weights: Weights) -> str:
    """Name what a folder of weights holds, wherever it lies.

    Local files count by their SHA-256, objects on S3 by their size and ETag, of which one listing
    tells. So a copy has the name of what it is a copy of, as long as both lie on disks or both on
    S3; there, one that was uploaded in parts of another size, or is encrypted with a key of the
    owner's, has another.

    Args:
        weights: Not those of a hub, whose commit says what they are.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        WeightsError: If there is no such folder.
        ConfigError: If they have a revision.
        StorageError: If it cannot be read.
    """
    files: list[tuple[object, ...]]
    if scheme(weights.location) == "s3":
        place = join(weights.location, weights.subfolder)
        listing = storage_for(place).list_files(place)
        files = [(name, *state) for name, state in listing.items() if _is_read(name)]
        if not files:
            raise WeightsError(f"no weights at {place}", repair="check the location")
    else:
        folder = local_folder(weights)
        names = _read_names(folder)
        with ThreadPoolExecutor(_THREADS) as pool:
            sums = pool.map(lambda name: content_sha256(folder / name), names)
            files = list(zip(names, sums, strict=True))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def content_sha256(path: Path) -> str:
    """Hash a file's content; a large one that did not change since the last time is not read.

    It counts as unchanged where path, size, inode and the times of the last change of content and
    of state are the same: the last one cannot be set back.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        StorageError: If it cannot be read.
    """
    with disk_errors("read", path):
        state = _state(path)
        if state.bytes < _LARGE_BYTES:
            return file_sha256(path)
        note = cache_folder() / "hashes" / hashlib.sha256(repr(state).encode()).hexdigest()
        if note.is_file():
            return note.read_text(encoding="ascii")
        logger.info("reading %s to know it again", path, extra=event("hashing", place=str(path)))
        found = file_sha256(path)
        if _state(path) == state:
            # Where nothing can be noted, it is read again.
            with suppress(StorageError):
                write_bytes(str(note), found.encode())
        return found


class _State(NamedTuple):
    path: str
    bytes: int
    inode: int
    content_changed: int
    state_changed: int


def _state(path: Path) -> _State:
    state = path.stat()
    times = (state.st_mtime_ns, state.st_ctime_ns)
    return _State(str(path.resolve()), state.st_size, state.st_ino, *times)


def _read_names(folder: Path) -> list[str]:
    """List the files that count, also below links to folders."""
    with disk_errors("list", folder):
        found = (
            Path(root, file).relative_to(folder).as_posix()
            for root, _, files in os.walk(folder, followlinks=True)
            for file in files
        )
        return sorted(filter(_is_read, found))


def _is_read(name: str) -> bool:
    """Tell whether a file counts: what is hidden belongs to the tools that fetched the rest."""
    path = PurePosixPath(name)
    return path.suffix in READ_SUFFIXES and not any(part.startswith(".") for part in path.parts)
