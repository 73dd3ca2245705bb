"""The lock of a demo's folder, and the cleanup of processes that a killed demo left."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from advgrpo.demo.state import state_folder
from advgrpo.errors import ConfigError

OWNER = "ADVGRPO_DEMO"
"""Environment variable of each process of a demo: the folder that it belongs to."""

_SAVE_SECONDS = 120.0
"""How long processes of a killed demo may take to save their state."""


@contextmanager
def only_demo_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a demo's folder, and stop processes that a killed demo left.

    Raises:
        ConfigError: If another demo is running in the folder.
    """
    state_folder(folder).mkdir(parents=True, exist_ok=True)
    # Not truncated when opened: the file names the process that holds the lock.
    with (state_folder(folder) / "lock").open("a+", encoding="utf-8") as file:
        try:
            # The kernel releases it however the process ends. Children do not inherit the
            # descriptor, so processes that a killed demo left do not hold it.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"a demo is running in {folder} (process {file.read().strip()})",
                repair="wait until it ends, stop it, or use another --folder",
            ) from error
        file.truncate(0)
        # In append mode, this writes at the end, wherever the file was read.
        file.write(str(os.getpid()))
        file.flush()
        # Only under the lock: processes of a running demo have the same variable.
        stop_leftovers(folder)
        yield


def stop_leftovers(folder: Path) -> None:
    """Terminate the processes of a folder's demo, after time to save their state."""
    left = [process for process in psutil.process_iter() if _belongs_to(process, folder)]
    for process in left:
        # SIGTERM is the signal on which tasks save their state.
        process.terminate()
    # All are signalled before any is waited for, so that ranks save their state together.
    _, alive = psutil.wait_procs(left, timeout=_SAVE_SECONDS)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive)


def _belongs_to(process: psutil.Process, folder: Path) -> bool:
    try:
        # Orphans lose their parent, but keep their environment.
        # As an absolute path: the demo may be started in another directory next time.
        return process.environ().get(OWNER) == str(folder.resolve())
    except (psutil.Error, OSError):
        # Processes of other users cannot be read, and some end in the meantime.
        return False
