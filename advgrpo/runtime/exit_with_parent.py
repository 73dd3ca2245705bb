"""Processes that end with the process that started them, however that one ends.

A job that is started again must not meet the ranks of the attempt before, which still write into
the same folder. The parent holds the lock of a file; the system releases it when the parent dies.

Run as a script, this module runs a program that does not know of the file, such as a server. It
imports the standard library alone, so that `python -I` starts it in milliseconds.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

LIFELINE = "ADVGRPO_LIFELINE"
"""Environment variable with the path of the file whose lock the parent holds."""

_GRACE_SECONDS = 5.0

# Blocks of tasks are nested: one thread per file is enough.
_followed: set[str] = set()


@contextmanager
def lifeline(folder: Path) -> Iterator[dict[str, str]]:
    """Return the environment of processes that end with this one, or with the block.

    Args:
        folder: Folder for the file; empty again after the block.
    """
    # No child inherits the descriptor: a lock belongs to all processes that have it open.
    with NamedTemporaryFile(dir=folder, prefix="lifeline-") as file:
        # Not lockf, whose locks end when the process closes any descriptor of the file. Not
        # PR_SET_PDEATHSIG, which follows the parent's thread and does not cover grandchildren.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield {LIFELINE: file.name}


def end_with_parent() -> None:
    """Kill this process once the parent that `LIFELINE` names is gone; without one, do nothing."""
    path = os.environ.get(LIFELINE)
    if path and path not in _followed:
        _followed.add(path)
        # No exception and no exit: the main thread may never return from a collective call.
        follow(path, lambda: os.kill(os.getpid(), signal.SIGKILL))


def follow(path: str, end: Callable[[], None]) -> None:
    """Call a function in a thread once the parent is gone.

    Args:
        path: The file whose lock the parent holds.
        end: Ends this process.
    """

    def wait() -> None:
        # The parent deletes the file when its block ends.
        with suppress(FileNotFoundError), Path(path).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
        end()

    threading.Thread(target=wait, name="advgrpo-lifeline", daemon=True).start()


def main(command: Sequence[str]) -> None:
    """Run a program until it ends or the parent is gone, then kill this process's group."""
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def stop() -> None:
        # Group 0 is this process's own: the parent must start it in a new session.
        os.killpg(0, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            program.wait(_GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    # The program would inherit SIG_IGN, but not a handler.
    signal.signal(signal.SIGTERM, lambda *_: None)
    follow(os.environ[LIFELINE], stop)
    program.wait()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
