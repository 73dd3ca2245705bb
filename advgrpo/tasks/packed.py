"""A growing folder of many small files, kept on an object store as a few large ones.

An object store takes as long for a small object as for one of a megabyte.
"""

import tarfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from advgrpo.errors import StorageError
from advgrpo.storage import cache_folder, join, list_files, local_folder, storage_for
from advgrpo.storage.base import PARTIAL_PREFIX
from advgrpo.storage.local import disk_errors, replaced_folder

_PREFIX, _SUFFIX = "part-", ".tar"


@contextmanager
def kept_at(location: str, folder: Path, *, seconds_between: float = 60.0) -> Iterator[None]:
    """Save what appears in a folder, after fetching what an earlier run saved.

    Args:
        location: S3 location of the packed files.
        folder: Local folder; becomes what was saved.
        seconds_between: How much work is lost at most if the machine is.

    Raises:
        StorageError: If the files cannot be fetched, or not be saved at the end.
    """
    parts = _parts(location)
    with replaced_folder(folder) as fresh:
        if parts:
            _unpack(local_folder(location), fresh)
    saver = _Saver(location, folder, first_part=len(parts))
    ended = threading.Event()

    def save_now_and_then() -> None:
        while not ended.wait(seconds_between):
            # What cannot be saved now is saved later, or the error is raised at the end.
            try:
                saver.save()
            except StorageError:
                continue

    thread = threading.Thread(target=save_now_and_then, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        saver.save()


def unpacked(location: str) -> Path:
    """Bring a folder to the local disk, packed or plain.

    Args:
        location: Where `kept_at` saved it, or any other folder.

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


class _Saver:
    """Packs whatever is new or changed since the last time.

    Args:
        location: Where the parts go.
        folder: What is packed; its present content counts as saved.
        first_part: Number of the next part.
    """

    def __init__(self, location: str, folder: Path, *, first_part: int) -> None:
        self._location, self._folder, self._number = location, folder, first_part
        self._saved = self._present()

    def save(self) -> None:
        present = self._present()
        changed = sorted(name for name in present if self._saved.get(name) != present[name])
        if not changed:
            return
        with TemporaryDirectory() as scratch:
            part = Path(scratch) / f"{_PREFIX}{self._number:06d}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
            with disk_errors("write", part), tarfile.open(part, "w") as archive:
                for name in changed:
                    archive.add(self._folder / name, arcname=name)
            storage_for(self._location).upload_file(part, join(self._location, part.name))
        self._saved = present
        self._number += 1

    def _present(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for path in self._folder.rglob("*"):
            if path.is_file() and not path.name.startswith(PARTIAL_PREFIX):
                state = path.stat()
                name = path.relative_to(self._folder).as_posix()
                found[name] = state.st_size, state.st_mtime_ns
        return found


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
