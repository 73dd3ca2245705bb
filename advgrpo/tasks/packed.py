"""Folders of many small files that lie on an object store as a few large ones.

An object store takes as long for a small object as for one of a megabyte.
"""

import tarfile
from pathlib import Path

from advgrpo.errors import StorageError
from advgrpo.storage import cache_folder, list_files, local_folder
from advgrpo.storage.local import disk_errors, replaced_folder

_PREFIX, _SUFFIX = "part-", ".tar"


def unpacked(location: str) -> Path:
    """Bring a folder to the local disk, packed or plain.

    Args:
        location: Where `part-*.tar` files are, or any other folder.

    Raises:
        StorageError: If it cannot be fetched.
    """
    if not location.startswith("s3://") or not _parts(location):
        return local_folder(location)
    parts = local_folder(location)
    folder = cache_folder() / "unpacked" / parts.name
    if not folder.is_dir():
        with replaced_folder(folder) as fresh:
            _unpack(parts, fresh)
    return folder


def _parts(location: str) -> list[str]:
    return [n for n in list_files(location) if n.startswith(_PREFIX) and n.endswith(_SUFFIX)]


def _unpack(parts: Path, folder: Path) -> None:
    # A later part holds newer versions of files that changed.
    for part in sorted(parts.glob(f"{_PREFIX}*{_SUFFIX}")):
        try:
            with disk_errors("unpack", part), tarfile.open(part) as archive:
                archive.extractall(folder, filter="data")
        except tarfile.TarError as error:
            raise StorageError(
                f"{part.name} of a packed folder is damaged: {error}",
                repair="delete it where it lies; what it held is made again",
            ) from error
