"""The backend for local disks, and atomic writes of files and folders."""

import errno
import hashlib
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
    """Convert `OSError`s into storage errors.

    Args:
        action: The attempted action, as in "cannot {action} {path}".
        path: The file or folder.

    Raises:
        StorageFullError: If the disk or quota is full.
        StorageNotFoundError: If the path does not exist.
        StorageError: For any other reason.
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
            raise StorageNotFoundError(
                message, repair="create it, or use the path of an existing one"
            ) from error
        raise StorageError(
            message, repair="check the path's owner and permissions, and the disk with dmesg"
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which is renamed to `path` on success."""
    with disk_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}-{path.name}"
        try:
            yield partial
            # Without fsync, a power cut can leave the renamed file empty.
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder in the same parent, which is renamed to `path` on success."""
    with disk_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.parent / f"{PARTIAL_PREFIX}{uuid.uuid4().hex}-{path.name}"
        old = partial.with_name(f"{partial.name}-old")
        partial.mkdir()
        try:
            yield partial
            # rename() does not replace a folder that is not empty.
            if path.exists():
                path.rename(old)
            partial.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        StorageError: If it cannot be read.
    """
    with disk_errors("read", path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LocalStorage:
    """Files on a local disk."""

    def read_bytes(self, location: str) -> bytes:
        with disk_errors("read", location):
            return Path(location).read_bytes()

    def write_bytes(self, location: str, data: bytes) -> None:
        with atomic_file(Path(location)) as partial:
            partial.write_bytes(data)

    def upload_file(self, source: Path, location: str) -> None:
        with atomic_file(Path(location)) as partial:
            shutil.copyfile(source, partial)

    def download_file(self, location: str, target: Path) -> None:
        with atomic_file(target) as partial:
            shutil.copyfile(location, partial)

    def exists(self, location: str) -> bool:
        return Path(location).is_file()

    def list_files(self, location: str) -> dict[str, FileState]:
        folder = Path(location)
        files: dict[str, FileState] = {}
        with disk_errors("list", location):
            for path in sorted(_walk(folder)):
                name = path.relative_to(folder)
                if any(part.startswith(PARTIAL_PREFIX) for part in name.parts):
                    continue
                # A file may be deleted during the walk; a symlink loop is not a file.
                with suppress(FileNotFoundError):
                    if path.is_file():
                        state = path.stat()
                        files[name.as_posix()] = FileState(state.st_size, str(state.st_mtime_ns))
        return files

    def delete(self, location: str) -> None:
        path = Path(location)
        with disk_errors("delete", location):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _walk(folder: Path) -> list[Path]:
    """List all paths below a folder that are not folders."""

    def on_error(error: OSError) -> None:
        # Other processes delete folders during the walk, old checkpoints for instance.
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        # The root of a disk has a folder lost+found that only root may list.
        is_private = isinstance(error, PermissionError) and error.filename != str(folder)
        if not (is_gone or is_private):
            raise error

    return [
        Path(root, name) for root, _, names in os.walk(folder, onerror=on_error) for name in names
    ]
