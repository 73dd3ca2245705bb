"""Files on a local disk."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from advgrpo.errors import (
    StorageError,
    StorageFullError,
    StorageNotFoundError,
)
from advgrpo.storage.base import PARTIAL_PREFIX, FileState

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def disk_errors(action: str, path: Path | str) -> Iterator[None]:
    """Turn the operating system's errors into ours.

    Args:
        action: What is being done, as in "cannot {action} {path}".
        path: The file or folder it is done to.

    Raises:
        StorageFullError: If the disk or quota is full.
        StorageNotFoundError: If the path does not exist.
        StorageError: If anything else is wrong with it.
    """
    try:
        yield
    except OSError as error:
        culprit = f" ({error.filename})" if error.filename not in {None, str(path)} else ""
        message = f"cannot {action} {path}: {error.strerror or error}{culprit}"
        if error.errno in _NO_ROOM:
            raise StorageFullError(
                message, repair="free some space or raise the quota, then run again"
            ) from error
        if isinstance(error, FileNotFoundError):
            raise StorageNotFoundError(message, repair="check the path") from error
        raise StorageError(
            message, repair="check the path, its permissions and the disk"
        ) from error


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place once the block succeeds."""
    with disk_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}-{path.name}"
        try:
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` that takes its place once the block succeeds."""
    with disk_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}-{path.name}"
        old = partial.with_name(f"{partial.name}-old")
        partial.mkdir()
        try:
            yield partial
            # A folder that is not empty cannot be renamed over.
            if path.exists():
                path.rename(old)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


class LocalStorage:
    """Files on a local disk."""

    def read_bytes(self, location: str) -> bytes:
        with disk_errors("read", location):
            return Path(location).read_bytes()

    def write_bytes(self, location: str, data: bytes) -> None:
        with replaced_file(Path(location)) as partial:
            partial.write_bytes(data)

    def upload_file(self, source: Path, location: str) -> None:
        with replaced_file(Path(location)) as partial:
            shutil.copyfile(source, partial)

    def download_file(self, location: str, target: Path) -> None:
        with replaced_file(target) as partial:
            shutil.copyfile(location, partial)

    def exists(self, location: str) -> bool:
        return Path(location).is_file()

    def list_files(self, location: str) -> dict[str, FileState]:
        folder = Path(location)
        found: dict[str, FileState] = {}
        with disk_errors("list", location):
            for path in sorted(_files_below(folder)):
                name = path.relative_to(folder)
                if any(part.startswith(PARTIAL_PREFIX) for part in name.parts):
                    continue
                # A link that leads in a circle is no file, and no error.
                with suppress(FileNotFoundError):
                    if path.is_file():
                        state = path.stat()
                        found[name.as_posix()] = FileState(state.st_size, str(state.st_mtime_ns))
        return found

    def delete(self, location: str) -> None:
        path = Path(location)
        with disk_errors("delete", location):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _files_below(folder: Path) -> list[Path]:
    """List what is no folder, without what goes meanwhile, as old checkpoints do."""

    def refuse(error: OSError) -> None:
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        # As the folder lost+found at the root of a disk.
        is_others = isinstance(error, PermissionError) and error.filename != str(folder)
        if not (is_gone or is_others):
            raise error

    return [
        Path(root, name) for root, _, names in os.walk(folder, onerror=refuse) for name in names
    ]
