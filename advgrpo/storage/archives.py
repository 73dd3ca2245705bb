"""Folders of many small files that lie on an object store as a few large ones.

An object store takes as long for a small object as for one of a megabyte.
"""

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from advgrpo.errors import StorageError
from advgrpo.storage import (
    FileState,
    cached_folder,
    fetched_name,
    join,
    local_folder,
    scheme,
    storage_for,
)
from advgrpo.storage.local import disk_errors, replaced_folder

_PREFIX, _SUFFIX = "part-", ".tar"


def unpacked(location: str) -> Path:
    """Bring a folder to the local disk, packed or plain.

    Args:
        location: Where `part-*.tar` files are, or any other folder.

    Raises:
        StorageError: If it cannot be fetched.
    """
    parts = _parts(location)
    if not parts:
        return local_folder(location)
    sizes = [part.bytes for part in parts.values()]
    folder = cached_folder(
        fetched_name(location, parts),
        # Parts are unpacked one by one.
        sum(sizes) + max(sizes),
        lambda folder: _unpack(location, list(parts), folder),
    )
    return folder / "files"


def is_packed(location: str) -> bool:
    """Tell whether a folder lies on an object store as a few large files."""
    return bool(_parts(location))


def _parts(location: str) -> Mapping[str, FileState]:
    if scheme(location) != "s3":
        return {}
    listing = storage_for(location).list_files(location)
    return {
        name: state
        for name, state in listing.items()
        if name.startswith(_PREFIX) and name.endswith(_SUFFIX)
    }


def _unpack(location: str, parts: list[str], folder: Path) -> None:
    storage = storage_for(location)
    with replaced_folder(folder) as fresh:
        files, part = fresh / "files", fresh / "part.tar"
        # A later part holds newer versions of files that changed.
        for name in sorted(parts):
            where = join(location, name)
            storage.download_file(where, part)
            try:
                with disk_errors("unpack", where), tarfile.open(part, "r:") as archive:
                    for entry in archive:
                        _write(archive, entry, files)
            except (tarfile.TarError, ValueError, OverflowError) as error:
                raise StorageError(
                    f"{where} is damaged: {error}",
                    repair="delete it where it lies; what it held is made again",
                ) from error
        part.unlink()


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    # `extractall(filter="data")` came with Python 3.11.4, and Debian 12 has 3.11.2.
    name = PurePosixPath(entry.name)
    content = archive.extractfile(entry) if entry.isfile() else None
    # A sparse file of a few bytes can fill the disk, as a compressed archive can.
    if content is None or entry.issparse() or name.is_absolute() or ".." in name.parts:
        raise tarfile.TarError(f"{entry.name} is no plain file within it")
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)
