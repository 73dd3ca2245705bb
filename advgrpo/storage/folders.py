"""Folders that are whole or absent: a list of their files is written last and checked."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advgrpo.errors import StorageDamagedError, StorageNotFoundError
from advgrpo.storage.base import PARTIAL_PREFIX, join, scheme
from advgrpo.storage.files import storage_for
from advgrpo.storage.local import LocalStorage, disk_errors, replaced_folder

COMMIT_FILE = "commit.json"
"""Lists a folder's files with sizes and SHA-256. A folder without it was not written whole."""

_THREADS = 8
_CHUNK = 2**20


@dataclass(frozen=True)
class CommittedFile:
    """What a file of a committed folder must be."""

    bytes: int
    sha256: str


def file_sha256(path: Path) -> str:
    """Hash a file's content.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    with disk_errors("read", path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def commit_of(location: str) -> dict[str, CommittedFile] | None:
    """Read the list of a folder's files.

    Returns:
        Name -> what the file must be; None if the folder was not written whole.

    Raises:
        StorageDamagedError: If the list is damaged.
        StorageError: If it cannot be read.
    """
    try:
        text = storage_for(location).read_bytes(join(location, COMMIT_FILE))
    except StorageNotFoundError:
        return None
    try:
        listed: Mapping[str, Any] = json.loads(text)["files"]
        files = {
            name: CommittedFile(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in listed.items()
        }
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        raise StorageDamagedError(
            f"{join(location, COMMIT_FILE)} is damaged: {error}", repair="write the folder anew"
        ) from error
    for name in files:
        join(location, name)  # refuses names that lead out of the folder
    return files


def upload_folder(folder: Path, location: str) -> None:
    """Copy a local folder so that readers find it whole or not at all.

    Args:
        folder: What to copy; its own commit file, if any, is replaced.
        location: Local path or S3 location that becomes a copy; what lay there is gone.

    Raises:
        StorageError: If it cannot be copied; a local `location` is then as before.
    """
    names = _names(folder)
    storage = storage_for(location)
    if not scheme(location):
        with replaced_folder(Path(location)) as partial:
            _copy(names, lambda name: storage.upload_file(folder / name, str(partial / name)))
            storage.write_bytes(str(partial / COMMIT_FILE), _commit(partial, names))
        return
    commit = _commit(folder, names)
    storage.delete(join(location, COMMIT_FILE))
    stale = set(storage.list_files(location)) - set(names)
    _copy(names, lambda name: storage.upload_file(folder / name, join(location, name)))
    for name in stale:
        storage.delete(join(location, name))
    storage.write_bytes(join(location, COMMIT_FILE), commit)


def download_files(location: str, folder: Path, names: Sequence[str]) -> None:
    """Copy some files of a folder to the local disk.

    Args:
        location: Local path or S3 location of the folder.
        folder: Holds these files afterwards, all or none; what lay there is gone.
        names: Names below the folder.

    Raises:
        StorageError: If one cannot be fetched.
    """
    storage = storage_for(location)
    with replaced_folder(folder) as partial:
        _copy(names, lambda name: storage.download_file(join(location, name), partial / name))


def download_folder(location: str, folder: Path, *, must_be_committed: bool = True) -> None:
    """Copy a folder to the local disk and check every file.

    Args:
        location: Local path or S3 location of what to copy.
        folder: Becomes a copy, whole or not at all; what lay there is gone.
        must_be_committed: Whether a folder without a commit file is refused. If not, it is copied
            as it is listed, and nothing is checked.

    Raises:
        StorageNotFoundError: If there is no such folder, or it was not written whole.
        StorageDamagedError: If a file is not what the commit file says.
        StorageError: If it cannot be fetched.
    """
    storage = storage_for(location)
    commit = commit_of(location)
    names = list(storage.list_files(location) if commit is None else commit)
    if commit is None and (must_be_committed or not names):
        problem = f"not whole: it has no {COMMIT_FILE}" if names else "empty or absent"
        raise StorageNotFoundError(
            f"{location} is {problem}",
            repair="check the location; if its writer was interrupted, let it run again",
        )
    with replaced_folder(folder) as partial:
        _copy(names, lambda name: storage.download_file(join(location, name), partial / name))
        if commit is not None:
            _check(partial, commit, location)
            LocalStorage().write_bytes(str(partial / COMMIT_FILE), _as_json(commit))


def _check(folder: Path, commit: Mapping[str, CommittedFile], source: str) -> None:
    for name, expected in commit.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            problem = "is missing"
        elif found != expected.bytes:
            problem = f"has {found} bytes instead of {expected.bytes}"
        elif file_sha256(path) != expected.sha256:
            problem = "has another content than was written"
        else:
            continue
        raise StorageDamagedError(
            f"{join(source, name)} {problem}", repair="write the folder anew, or restore the file"
        )


def _names(folder: Path) -> list[str]:
    with disk_errors("list", folder):
        if not folder.is_dir():
            raise StorageNotFoundError(f"{folder} is no folder", repair="check the path")
        return sorted(
            name.as_posix()
            for path in folder.rglob("*")
            if path.is_file()
            and (name := path.relative_to(folder)).as_posix() != COMMIT_FILE
            and not any(part.startswith(PARTIAL_PREFIX) for part in name.parts)
        )


def _commit(folder: Path, names: Iterable[str]) -> bytes:
    with disk_errors("read", folder):
        files = {
            name: CommittedFile((folder / name).stat().st_size, file_sha256(folder / name))
            for name in names
        }
    return _as_json(files)


def _as_json(files: Mapping[str, CommittedFile]) -> bytes:
    plain = {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in files.items()}
    return json.dumps({"files": plain}, indent=1).encode()


def _copy(names: Sequence[str], copy: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for _ in pool.map(copy, names):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
