"""Digests of model weights, on a local disk or S3."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from advgrpo.config.base import Weights
from advgrpo.errors import WeightsError
from advgrpo.storage.base import READ_SUFFIXES
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.file_hash import cached_file_sha256
from advgrpo.storage.files import is_remote, storage_for
from advgrpo.storage.local import disk_errors
from advgrpo.storage.locations import join

_THREADS = 8


def weights_digest(weights: Weights) -> str:
    """Return a digest of the content of a folder of weights.

    Local files count with their SHA-256, S3 objects with their size and ETag, which need only one
    listing. Copies therefore have equal digests if all are local or all on S3; an S3 copy that was
    uploaded with another part size, or is encrypted with a customer key, has another one.

    Args:
        weights: Any but those of a hub, which their commit identifies.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        WeightsError: If the folder does not exist.
        StorageError: If it cannot be read.
    """
    files: list[tuple[object, ...]]
    if is_remote(weights.location):
        folder_location = join(weights.location, weights.subfolder)
        listing = storage_for(folder_location).list_files(folder_location)
        files = [(name, *state) for name, state in listing.items() if _is_read(name)]
        if not files:
            raise WeightsError(
                f"no weights at {folder_location}",
                repair="set `location` and `subfolder` to a folder with safetensors files",
            )
    else:
        folder = local_folder(weights)
        names = _read_names(folder)
        # hashlib releases the GIL, so threads hash in parallel.
        with ThreadPoolExecutor(_THREADS) as pool:
            digests = pool.map(lambda name: cached_file_sha256(folder / name), names)
            files = list(zip(names, digests, strict=True))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _read_names(folder: Path) -> list[str]:
    """List the files that count; symbolic links to folders are followed, as in hub caches."""
    with disk_errors("list", folder):
        names = (
            Path(root, file).relative_to(folder).as_posix()
            for root, _, files in os.walk(folder, followlinks=True)
            for file in files
        )
        return sorted(filter(_is_read, names))


def _is_read(name: str) -> bool:
    """Return whether a file counts; hidden ones belong to download tools."""
    path = PurePosixPath(name)
    return path.suffix in READ_SUFFIXES and not any(part.startswith(".") for part in path.parts)
