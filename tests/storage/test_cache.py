import fcntl
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from advgrpo.errors import ConfigError, StorageFullError
from advgrpo.storage import LIMIT_VARIABLE, cache_folder, cached_folder, scratch_folder
from advgrpo.storage.base import PARTIAL_PREFIX

MIB = 2**20
# A spawned process shares no state with this one; a forked one would share the locks.
SPAWN = multiprocessing.get_context("spawn")


def filled(count: int) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "data").write_bytes(b"x" * count)

    return fill


def must_not_fill(_folder: Path) -> None:
    raise AssertionError("filled again")


def take(cache: str, name: str) -> None:
    os.environ["ADVGRPO_CACHE"] = cache
    cached_folder(name, MIB, filled(MIB))


def in_another_process(name: str) -> None:
    process = SPAWN.Process(target=take, args=(os.environ["ADVGRPO_CACHE"], name))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, str(2.5 * MIB / 2**30))


def names() -> set[str]:
    return {path.name for path in (cache_folder() / "folders").iterdir() if path.is_dir()}


def test_a_folder_is_filled_once() -> None:
    first = cached_folder("a", MIB, filled(MIB))
    assert cached_folder("a", MIB, must_not_fill) == first
    assert (first / "data").stat().st_size == MIB


def test_two_concurrent_misses_do_not_deadlock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Both proceed only once both hold the shared lock; the one that fills keeps it.
    both, flock = threading.Barrier(2), fcntl.flock

    def together(lock: int, kind: int) -> None:
        flock(lock, kind)
        if kind == fcntl.LOCK_SH and not both.broken:
            with suppress(threading.BrokenBarrierError):
                both.wait(5)
            both.abort()

    monkeypatch.setattr(fcntl, "flock", together)
    calls: list[Path] = []

    def counted(folder: Path) -> None:
        calls.append(folder)
        filled(MIB)(folder)

    threads = [
        threading.Thread(target=cached_folder, args=("a", MIB, counted), daemon=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert len(calls) == 1


def test_the_least_recently_used_folder_is_evicted() -> None:
    for name in ("a", "b", "a"):
        in_another_process(name)
    in_another_process("c")
    assert names() == {"a", "c"}


def test_a_folder_in_use_is_not_evicted_and_the_limit_holds() -> None:
    cached_folder("mine", MIB, filled(MIB))
    in_another_process("theirs")
    cached_folder("more", MIB, filled(MIB))
    assert names() == {"mine", "more"}
    with pytest.raises(StorageFullError, match=r"do not fit into the cache.*ADVGRPO_CACHE_GIB"):
        cached_folder("too much", MIB, must_not_fill)
    assert names() == {"mine", "more"}


def take_and_stay(cache: str, done: Barrier) -> None:
    take(cache, "a")
    done.wait(60)


def test_processes_use_a_folder_at_the_same_time() -> None:
    done = SPAWN.Barrier(3)
    arguments = (os.environ["ADVGRPO_CACHE"], done)
    processes = [SPAWN.Process(target=take_and_stay, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    done.wait(60)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_a_deleted_folder_is_filled_again() -> None:
    shutil.rmtree(cached_folder("a", MIB, filled(MIB)))
    assert cached_folder("a", MIB, filled(MIB)).is_dir()


def test_a_folder_that_failed_to_fill_takes_no_space() -> None:
    with pytest.raises(RuntimeError, match="no network"):
        cached_folder("broken", 2 * MIB, _no_network)
    cached_folder("a", 2 * MIB, filled(2 * MIB))
    assert names() == {"a"}


def _no_network(_folder: Path) -> None:
    raise RuntimeError("no network")


def test_a_partial_folder_of_a_killed_process_is_removed() -> None:
    half = cache_folder() / "folders" / f"{PARTIAL_PREFIX}0123-a"
    half.mkdir(parents=True)
    (half / "data").write_bytes(b"x")
    cached_folder("a", MIB, filled(MIB))
    assert not half.exists()


@pytest.mark.parametrize("limit", ["lots", "inf"])
def test_a_limit_that_is_not_a_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    with pytest.raises(ConfigError, match=f"ADVGRPO_CACHE_GIB='{limit}': not a number of GiB"):
        cached_folder("a", MIB, must_not_fill)


def work_and_be_killed(cache: str) -> None:
    os.environ["ADVGRPO_CACHE"] = cache
    with scratch_folder() as folder:
        (folder / "half a result").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGKILL)


def work_until_released(cache: str, works: Barrier, done: Barrier) -> None:
    os.environ["ADVGRPO_CACHE"] = cache
    with scratch_folder() as folder:
        works.wait(60)
        done.wait(60)
        assert folder.is_dir()


def test_scratch_folders_of_killed_processes_are_removed_and_others_stay() -> None:
    cache = os.environ["ADVGRPO_CACHE"]
    killed = SPAWN.Process(target=work_and_be_killed, args=(cache,))
    killed.start()
    killed.join()
    (cache_folder() / "scratch" / "tmp-of-an-older-release").mkdir()
    (cache_folder() / "scratch" / "tmp-half-removed.lock").touch()
    works, done = SPAWN.Barrier(2), SPAWN.Barrier(2)
    other = SPAWN.Process(target=work_until_released, args=(cache, works, done))
    other.start()
    works.wait(60)
    with scratch_folder() as mine:
        folders = [path for path in mine.parent.iterdir() if path.is_dir()]
        assert len(folders) == 2
        assert not any((folder / "half a result").exists() for folder in folders)
        assert mine in folders
    done.wait(60)
    other.join()
    assert other.exitcode == 0
    assert [path.name for path in mine.parent.iterdir()] == ["all.lock"]


def test_a_lock_that_its_process_removes_meanwhile_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with scratch_folder() as folder:
        root = folder.parent
    (root / "abandoned.lock").touch()

    def remove(path: Path, **_: object) -> None:
        path.with_suffix(".lock").unlink(missing_ok=True)

    monkeypatch.setattr("advgrpo.storage.cache.shutil.rmtree", remove)
    with scratch_folder():
        assert not (root / "abandoned.lock").exists()
