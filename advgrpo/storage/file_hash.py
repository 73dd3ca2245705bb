"""A cache of file digests, so that large unchanged files are hashed only once."""

import hashlib
import logging
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from advgrpo.errors import StorageError
from advgrpo.storage.cache import cache_folder
from advgrpo.storage.local import LocalStorage, disk_errors, file_sha256
from advgrpo.telemetry.logging import event

_LARGE_BYTES = 16 * 2**20
"""Hashing a smaller file is faster than looking up its digest."""

logger = logging.getLogger("advgrpo")


def cached_file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, from the cache if a large one did not change.

    A file is unchanged if its path, size, inode, mtime and ctime are. ctime cannot be set back.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        StorageError: If it cannot be read.
    """
    with disk_errors("read", path):
        state = _state(path)
        if state.bytes < _LARGE_BYTES:
            return file_sha256(path)
        # The state is part of the name, so an entry never becomes wrong.
        entry = cache_folder() / "hashes" / hashlib.sha256(repr(state).encode()).hexdigest()
        if entry.is_file():
            return entry.read_text(encoding="ascii")
        logger.info("hashing %s", path, extra=event("hashing", place=str(path)))
        digest = file_sha256(path)
        # A file that changed while it was hashed has a digest of neither version.
        if _state(path) == state:
            # With a read-only cache, the file is hashed each time.
            with suppress(StorageError):
                LocalStorage().write_bytes(str(entry), digest.encode())
        return digest


class _State(NamedTuple):
    path: str
    bytes: int
    inode: int
    mtime_ns: int
    ctime_ns: int


def _state(path: Path) -> _State:
    state = path.stat()
    times = (state.st_mtime_ns, state.st_ctime_ns)
    return _State(str(path.resolve()), state.st_size, state.st_ino, *times)
