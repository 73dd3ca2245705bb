"""Processes that must not outlive the one that started them.

Started again, a job would otherwise meet the ranks of the one before, which still write into the
same place.
"""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIFELINE = "ADVGRPO_LIFELINE"
"""Environment variable that names a file; the starting process holds its lock while it lives."""

_followed: set[str] = set()


@contextmanager
def lifeline(folder: Path) -> Iterator[dict[str, str]]:
    """Give the variables by which processes that are started in the block end with this one.

    Args:
        folder: Where a file may be made.
    """
    path = folder / "lifeline"
    # The system takes the lock back however this process ends, and no child inherits it.
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield {LIFELINE: str(path)}


def end_with_parent() -> None:
    """From now on, kill this process when the one that started it, if it says so, is gone."""
    path = os.environ.get(LIFELINE)
    if path and path not in _followed:
        _followed.add(path)
        threading.Thread(target=_follow, args=(path,), name="advgrpo-lifeline", daemon=True).start()


def _follow(path: str) -> None:
    with suppress(FileNotFoundError), Path(path).open(encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    os.kill(os.getpid(), signal.SIGKILL)
