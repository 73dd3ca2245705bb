"""Folders of many small files, stored on S3 as a few large archives.

An object store takes as long for a small object as for one of a megabyte.
"""

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from advgrpo.errors import StorageError
from advgrpo.storage.base import FileState
from advgrpo.storage.cache import cached_folder
from advgrpo.storage.fetch import cache_entry_name, local_folder
from advgrpo.storage.files import is_remote, storage_for
from advgrpo.storage.local import atomic_folder, disk_errors
from advgrpo.storage.locations import join

PART_PREFIX, PART_SUFFIX = "part-", ".tar"


def extract(location: str) -> Path:
    """Return a local folder with the content of a location, packed or plain.

    Args:
        location: A folder with `part-*.tar` files, or any other folder.

    Raises:
        StorageError: If it cannot be downloaded or extracted.
    """
    parts = _parts(location)
    if not parts:
        return local_folder(location)
    sizes = [part.bytes for part in parts.values()]
    folder = cached_folder(
        cache_entry_name(location, parts),
        # One part at a time is on the disk together with all extracted files.
        sum(sizes) + max(sizes),
        lambda folder: _extract_parts(location, list(parts), folder),
    )
    return folder / "files"


def is_packed(location: str) -> bool:
    """Return whether a folder is stored as archives."""
    return bool(_parts(location))


def _parts(location: str) -> Mapping[str, FileState]:
    if not is_remote(location):
        return {}
    listing = storage_for(location).list_files(location)
    return {
        name: state
        for name, state in listing.items()
        if name.startswith(PART_PREFIX) and name.endswith(PART_SUFFIX)
    }


def _extract_parts(location: str, parts: list[str], folder: Path) -> None:
    storage = storage_for(location)
    with atomic_folder(folder) as partial:
        files, part = partial / "files", partial / "part.tar"
        # In order: a later part holds newer versions of changed files.
        for name in sorted(parts):
            part_location = join(location, name)
            storage.download_file(part_location, part)
            try:
                # Mode "r:" refuses compressed archives, which could fill the disk.
                with disk_errors("extract", part_location), tarfile.open(part, "r:") as archive:
                    for entry in archive:
                        _extract_entry(archive, entry, files)
            except (tarfile.TarError, ValueError, OverflowError) as error:
                raise StorageError(
                    f"{part_location} is damaged: {error}",
                    repair=f"delete {part_location} and run again: its images are generated again",
                ) from error
        part.unlink()


def _extract_entry(archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    # `extractall(filter="data")` came with Python 3.11.4, and Debian 12 has 3.11.2.
    name = PurePosixPath(entry.name)
    content = archive.extractfile(entry) if entry.isfile() else None
    # A sparse file of a few bytes can fill the disk, as a compressed archive can.
    if content is None or entry.issparse() or name.is_absolute() or ".." in name.parts:
        raise tarfile.TarError(f"{entry.name} is not a plain file inside the archive")
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)
