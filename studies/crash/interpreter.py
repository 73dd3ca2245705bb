"""The interpreter that has loaded all libraries, and the program that stands in for Python."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from advgrpo.runtime.processes import CPU_ENVIRONMENT
from studies.crash import client

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class Warm:
    """A warm interpreter, and the program that replaces Python in the job.

    Args:
        folder: Folder for both.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        # A Unix socket's name has room for a hundred characters.
        socket = os.path.relpath(folder / "socket")
        self.program = folder / "bin" / "python3"
        self.program.parent.mkdir()
        command = [sys.executable, "-I", "-S", client.__file__, str(folder / "socket")]
        self.program.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n', encoding="utf-8")
        self.program.chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "studies.crash.warm", socket, str(self.program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **CPU_ENVIRONMENT, **QUIET},
            start_new_session=True,
        )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != b"warm\n":
            raise RuntimeError("the warm interpreter did not start; its output is above")

    @property
    def server(self) -> psutil.Process:
        """The process that forks."""
        return psutil.Process(self._server.pid)

    def processes(self) -> list[psutil.Process]:
        """Return all its descendants."""
        return self.server.children(recursive=True)

    def forks(self) -> list[psutil.Process]:
        """Return its forks."""
        return self.server.children()

    def close(self) -> None:
        """End it."""
        # Closes its standard input: then the server ends, and its forks with it.
        self._server.communicate(timeout=30)
