"""Folders fetched from elsewhere: kept until room is needed, safe for several processes."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from advgrpo.errors import ConfigError, StorageFullError
from advgrpo.storage.base import PARTIAL_PREFIX
from advgrpo.storage.local import disk_errors

CACHE_VARIABLE = "ADVGRPO_CACHE"
"""Environment variable that names the folder for downloads; else it is the user's cache."""

LIMIT_VARIABLE = "ADVGRPO_CACHE_GIB"
"""Environment variable that bounds the fetched folders, in GiB; without it they may fill the disk.
Models from a hub are not counted: they lie in the hub's own cache below the folder."""

_GIB = 2**30
_held: dict[Path, int] = {}
"""Folders that this process uses, each with a shared lock that ends with the process."""


def cache_folder() -> Path:
    """Name the folder that downloads are kept in."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "advgrpo"


def cached_folder(name: str, size: int, fill: Callable[[Path], object]) -> Path:
    """Give a folder of the cache, filling it if it is not there.

    Of several processes that ask at the same time the first one fills it. It stays at least until
    this process ends; after that it goes when others need the room, the least recently used first.

    Args:
        name: Its name in the cache, which says what is in it.
        size: Bytes that it takes.
        fill: Makes the folder, whole or not at all.

    Raises:
        StorageFullError: If it does not fit into the cache beside what is being used.
    """
    folder = cache_folder() / "folders" / name
    if folder in _held:
        if folder.is_dir():
            return folder
        # Somebody emptied the cache.
        os.close(_held.pop(folder))
    lock = _opened(folder.with_suffix(".lock"))
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not folder.is_dir():
            # A lock of its own: of two that both went on from a shared lock to an exclusive one,
            # the second would wait for the first, which keeps its shared lock to its end.
            with _locked(folder.with_suffix(".filling")):
                if not folder.is_dir():
                    _remove(folder)
                    _reserve(lock, size, folder)
                    fill(folder)
        os.utime(lock)
    except BaseException:
        os.close(lock)
        raise
    _held[folder] = lock
    return folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give an empty folder in the cache that goes with the block.

    What processes left that were killed goes when the next one asks.

    Raises:
        StorageError: If it cannot be made.
    """
    root = cache_folder() / "scratch"
    with _locked(root / "all.lock"), disk_errors("write", root):
        for left in {path.with_suffix("") for path in root.iterdir()} - {root / "all"}:
            _remove_if_left(left)
        folder = Path(mkdtemp(dir=root))
        lock = _opened(folder.with_suffix(".lock"))
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    """Remove a scratch folder, unless its process lives."""
    path = folder.with_suffix(".lock")
    with _locked_if_unused(path) as lock:
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            path.unlink()


def _reserve(lock: int, size: int, folder: Path) -> None:
    """Note what a folder takes, after making room for it."""
    limit = _limit()
    with _locked(folder.parent / "all.lock"):
        _note(lock, 0)
        locks = sorted(folder.parent.glob("*.lock"), key=lambda path: path.stat().st_mtime_ns)
        for path in locks:
            if limit is None or _taken(locks) + size <= limit:
                break
            _evict(path)
        if limit is not None and (taken := _taken(locks)) + size > limit:
            raise StorageFullError(
                f"{_gib(size)} do not fit into the cache {folder.parents[1]}: of {_gib(limit)} "
                f"({LIMIT_VARIABLE}) {_gib(taken)} are in use",
                repair=f"raise {LIMIT_VARIABLE}, on a cluster with the chart's "
                "cluster.node.ephemeral_storage or a larger volume for the cache",
            )
        _note(lock, size)


def _evict(path: Path) -> None:
    """Remove a folder, unless a process uses it."""
    with _locked_if_unused(path) as lock:
        if lock is not None:
            _remove(path.with_suffix(""))
            _note(lock, 0)


def _remove(folder: Path) -> None:
    """Remove a folder and what killed processes left beside it; the caller has its lock."""
    for path in (folder, *folder.parent.glob(f"{PARTIAL_PREFIX}*-{folder.name}*")):
        shutil.rmtree(path, ignore_errors=True)


def _taken(locks: list[Path]) -> int:
    return sum(int(path.read_bytes() or b"0") for path in locks)


def _note(lock: int, size: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(size).encode(), 0)


def _limit() -> int | None:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        return int(float(text) * _GIB) if text else None
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{LIMIT_VARIABLE}={text!r} is no number of GiB", repair="set it to, say, 100"
        ) from error


def _opened(path: Path) -> int:
    with disk_errors("lock", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _opened(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def _locked_if_unused(path: Path) -> Iterator[int | None]:
    """Lock a file; gives its descriptor, or None while another process has it locked."""
    lock = _opened(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        yield None
        return
    try:
        yield lock
    finally:
        os.close(lock)


def _gib(size: int) -> str:
    return f"{size / _GIB:.3g} GiB"
