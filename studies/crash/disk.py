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
    """The machine's disk: a small tmpfs, if this process may mount one.

    Otherwise a full disk is simulated by RLIMIT_FSIZE: writes beyond it fail with EFBIG.

    Args:
        folder: Mount point.
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
        """Return how it is filled."""
        return "tmpfs" if self._mounted else "RLIMIT_FSIZE"

    @contextmanager
    def full(self, attempt: Attempt) -> Iterator[None]:
        """Fill it while the block runs."""
        if not self._mounted:
            _limit_file_size(attempt, to=0)
            try:
                yield
            finally:
                _limit_file_size(attempt, to=None)
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


def _limit_file_size(attempt: Attempt, *, to: int | None) -> None:
    """Limit the file size of a job's processes and of their children; None lifts the limit."""
    for process in (attempt.warm.server, *attempt.processes()):
        with suppress(psutil.Error):
            _, most = process.rlimit(resource.RLIMIT_FSIZE)
            process.rlimit(resource.RLIMIT_FSIZE, (most if to is None else to, most))
