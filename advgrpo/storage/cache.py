"""A cache of downloaded folders with a size limit, safe for several processes."""

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
"""Environment variable with the folder for downloads; by default it is in the user's cache."""

LIMIT_VARIABLE = "ADVGRPO_CACHE_GIB"
"""Environment variable with the size limit of the cached folders, in GiB; by default there is none.
Models from a hub do not count: they are stored in the hub's own cache below the folder."""

_GIB = 2**30
# Never released before exit: callers keep paths into the folders.
_held: dict[Path, int] = {}
"""Descriptors of the shared locks on the folders in use; the kernel releases them at exit."""


def cache_folder() -> Path:
    """Return the folder for downloads."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "advgrpo"


def cached_folder(name: str, size: int, fill: Callable[[Path], object]) -> Path:
    """Return a folder of the cache, filled on a cache miss.

    Of several concurrent processes, one fills it. It stays at least until this process ends; later
    it is evicted when room is needed, the least recently used folder first.

    Args:
        name: Key in the cache, which identifies the content.
        size: Size of the folder in bytes.
        fill: Creates the folder atomically.

    Raises:
        StorageFullError: If it does not fit into the cache together with the folders in use.
    """
    folder = cache_folder() / "folders" / name
    if folder in _held:
        if folder.is_dir():
            return folder
        # The cache was emptied by hand.
        os.close(_held.pop(folder))
    lock = _open_lock(folder.with_suffix(".lock"))
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not folder.is_dir():
            # A separate lock: upgrading the shared lock would deadlock, as two processes would
            # each wait for the other's shared lock, which they hold until they exit.
            with _locked(folder.with_suffix(".filling")):
                if not folder.is_dir():
                    _remove(folder)
                    _reserve(lock, size, folder)
                    fill(folder)
        # The mtime of the lock is the time of last use, which eviction sorts by.
        os.utime(lock)
    except BaseException:
        os.close(lock)
        raise
    _held[folder] = lock
    return folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder in the cache, which is deleted after the block.

    It also deletes the folders that killed processes left.

    Raises:
        StorageError: If it cannot be created.
    """
    root = cache_folder() / "scratch"
    with _locked(root / "all.lock"), disk_errors("write", root):
        for folder in {path.with_suffix("") for path in root.iterdir()} - {root / "all"}:
            _remove_if_abandoned(folder)
        # Under the lock of all: between its creation and its own lock, the folder looks abandoned.
        folder = Path(mkdtemp(dir=root))
        lock = _open_lock(folder.with_suffix(".lock"))
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # While still locked, so that no other process takes the folder for abandoned.
        folder.with_suffix(".lock").unlink(missing_ok=True)
        os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    """Remove a scratch folder, unless its process is alive."""
    path = folder.with_suffix(".lock")
    with _locked_if_unused(path) as lock:
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            # Its process may have removed the file and ended since it was listed.
            path.unlink(missing_ok=True)


def _reserve(lock: int, size: int, folder: Path) -> None:
    """Record the size of a folder, after evicting others to make room for it."""
    limit = _limit()
    with _locked(folder.parent / "all.lock"):
        # An earlier attempt to fill it may have left its size.
        _write_size(lock, 0)
        # Least recently used first.
        locks = sorted(folder.parent.glob("*.lock"), key=lambda path: path.stat().st_mtime_ns)
        for path in locks:
            if limit is None or _used(locks) + size <= limit:
                break
            _evict(path)
        if limit is not None and (used := _used(locks)) + size > limit:
            raise StorageFullError(
                f"{_gib(size)} do not fit into the cache {folder.parents[1]}: "
                f"{LIMIT_VARIABLE}={limit / _GIB:.3g}, and {_gib(used)} are in use",
                repair=f"raise {LIMIT_VARIABLE}; on a cluster, raise the chart's "
                "cluster.node.ephemeralStorage or use a larger volume for the cache",
            )
        _write_size(lock, size)


def _evict(path: Path) -> None:
    """Evict a folder, unless a process uses it."""
    with _locked_if_unused(path) as lock:
        if lock is not None:
            _remove(path.with_suffix(""))
            _write_size(lock, 0)


def _remove(folder: Path) -> None:
    """Remove a folder and the partial ones of killed processes; the caller holds its lock."""
    for path in (folder, *folder.parent.glob(f"{PARTIAL_PREFIX}*-{folder.name}*")):
        shutil.rmtree(path, ignore_errors=True)


def _used(locks: list[Path]) -> int:
    # Sizes as reserved, because folders of other processes may still be filling.
    return sum(int(path.read_bytes() or b"0") for path in locks)


def _write_size(lock: int, size: int) -> None:
    # In place: replacing the file would leave other processes with a lock on the old inode.
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(size).encode(), 0)


def _limit() -> int | None:
    text = os.environ.get(LIMIT_VARIABLE, "")
    try:
        return int(float(text) * _GIB) if text else None
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"{LIMIT_VARIABLE}={text!r}: not a number of GiB",
            repair=f"set it to a number, for instance {LIMIT_VARIABLE}=100",
        ) from error


def _open_lock(path: Path) -> int:
    with disk_errors("lock", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_CLOEXEC: a child process would keep the lock after this one ends.
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def _locked_if_unused(path: Path) -> Iterator[int | None]:
    """Lock a file and yield its descriptor, or None if another process holds the lock."""
    # flock locks belong to the open file: a second descriptor of this process conflicts, too.
    lock = _open_lock(path)
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
