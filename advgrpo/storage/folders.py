"""Folders that are complete or absent: a commit file lists their files, and is written last."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advgrpo.errors import StorageDamagedError, StorageNotFoundError
from advgrpo.storage.base import PARTIAL_PREFIX
from advgrpo.storage.files import storage_for
from advgrpo.storage.local import LocalStorage, atomic_folder, disk_errors, file_sha256
from advgrpo.storage.locations import join, scheme
from advgrpo.strict_json import load_json

COMMIT_FILE = "commit.json"
"""Size and SHA-256 of each file of a folder. A folder without it is incomplete."""

_THREADS = 8


@dataclass(frozen=True)
class CommittedFile:
    """Expected size and digest of a file in a committed folder."""

    bytes: int
    sha256: str


def read_commit(location: str) -> dict[str, CommittedFile] | None:
    """Read the commit file of a folder.

    Returns:
        Expected state of each file by name; None if the folder is incomplete.

    Raises:
        StorageDamagedError: If the commit file is damaged.
        StorageError: If it cannot be read.
    """
    try:
        text = storage_for(location).read_bytes(join(location, COMMIT_FILE))
    except StorageNotFoundError:
        return None
    try:
        listed: Mapping[str, Any] = load_json(text)["files"]
        files = {
            name: CommittedFile(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in listed.items()
        }
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        raise StorageDamagedError(
            f"{join(location, COMMIT_FILE)} is damaged: {error}",
            repair="delete the folder and run again the task that wrote it",
        ) from error
    for name in files:
        join(location, name)  # refuses names that lead out of the folder
    return files


def upload_folder(folder: Path, location: str) -> None:
    """Copy a local folder so that readers see it complete or not at all.

    Args:
        folder: The folder to copy; a commit file in it is ignored.
        location: Local path or S3 location of the copy, which replaces what is there.

    Raises:
        StorageError: If it cannot be copied; a local `location` is then unchanged.
    """
    names = _names(folder)
    storage = storage_for(location)
    if not scheme(location):
        with atomic_folder(Path(location)) as partial:
            _copy(names, lambda name: storage.upload_file(folder / name, str(partial / name)))
            storage.write_bytes(str(partial / COMMIT_FILE), _commit(partial, names))
        return
    commit = _commit(folder, names)
    # S3 has no rename: the folder is incomplete from here until the new commit file is written.
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
        folder: Replaced by a folder with all of these files, or unchanged.
        names: Names below the folder.

    Raises:
        StorageError: If a file cannot be downloaded.
    """
    storage = storage_for(location)
    with atomic_folder(folder) as partial:
        _copy(names, lambda name: storage.download_file(join(location, name), partial / name))


def download_folder(location: str, folder: Path, *, must_be_committed: bool = True) -> None:
    """Copy a folder to the local disk and check every file.

    Args:
        location: Local path or S3 location of the folder.
        folder: Replaced by a complete copy, or unchanged.
        must_be_committed: Whether to refuse a folder without a commit file. If not, such a folder
            is copied as listed, without checks.

    Raises:
        StorageNotFoundError: If the folder does not exist or is incomplete.
        StorageDamagedError: If a file differs from the commit file.
        StorageError: If a file cannot be downloaded.
    """
    storage = storage_for(location)
    commit = read_commit(location)
    names = list(storage.list_files(location) if commit is None else commit)
    if commit is None and (must_be_committed or not names):
        problem = f"is incomplete: it has no {COMMIT_FILE}" if names else "does not exist"
        raise StorageNotFoundError(
            f"{location} {problem}",
            repair="run again the task that writes it, or use the location of an existing folder",
        )
    with atomic_folder(folder) as partial:
        _copy(names, lambda name: storage.download_file(join(location, name), partial / name))
        if commit is not None:
            _check(partial, commit, location)
            LocalStorage().write_bytes(str(partial / COMMIT_FILE), _as_json(commit))


def _check(folder: Path, commit: Mapping[str, CommittedFile], source: str) -> None:
    for name, expected in commit.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            problem = "is missing"
        elif size != expected.bytes:
            problem = f"has {size} bytes instead of {expected.bytes}"
        elif file_sha256(path) != expected.sha256:
            problem = f"does not have the SHA-256 in {COMMIT_FILE}"
        else:
            continue
        raise StorageDamagedError(
            f"{join(source, name)} {problem}",
            repair="restore the file, or delete the folder and run again the task that wrote it",
        )


def _names(folder: Path) -> list[str]:
    with disk_errors("list", folder):
        if not folder.is_dir():
            raise StorageNotFoundError(
                f"{folder} is not a folder", repair="use the path of an existing folder"
            )
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
    entries = {name: vars(file) for name, file in files.items()}
    return json.dumps({"files": entries}, indent=1).encode()


def _copy(names: Sequence[str], copy: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for _ in pool.map(copy, names):
                pass
        except BaseException:
            # Leaving the block waits for all submitted copies otherwise.
            pool.shutdown(cancel_futures=True)
            raise
