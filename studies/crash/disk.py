"""A disk that can be filled."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from studies.crash.job import Attempt

_BYTES = 96 * 2**20


class Disk:
    """The machine's disk: a small tmpfs where we may mount one.

    Elsewhere its processes are forbidden to make any file larger instead, which the kernel refuses
    them by EFBIG.

    Args:
        folder: Where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_BYTES}", "tmpfs", str(folder)]
        self._mounted = (
            os.geteuid() == 0
            and subprocess.run(command, capture_output=True, check=False).returncode == 0
        )

    @property
    def kind(self) -> str:
        """Name how it is filled."""
        return "tmpfs" if self._mounted else "RLIMIT_FSIZE"

    @contextmanager
    def full(self, attempt: Attempt) -> Iterator[None]:
        """Let it be full while the block lasts."""
        if not self._mounted:
            _let_files_grow(attempt, to=0)
            try:
                yield
            finally:
                _let_files_grow(attempt, to=None)
            return
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * 2**16)
        try:
            yield
        finally:
            filler.unlink()

    def close(self) -> None:
        """Unmount it."""
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
            self._mounted = False


def _let_files_grow(attempt: Attempt, *, to: int | None) -> None:
    """Limit the files of a job's processes and of those that it will start; None for no more."""
    for process in (attempt.warm.server, *attempt.processes()):
        with suppress(psutil.Error):
            _, most = process.rlimit(resource.RLIMIT_FSIZE)
            process.rlimit(resource.RLIMIT_FSIZE, (most if to is None else to, most))
