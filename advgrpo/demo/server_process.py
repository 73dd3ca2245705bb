"""One server process on a loopback port of its choice."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from advgrpo.errors import StorageError, StorageUnavailableError
from advgrpo.runtime import exit_with_parent

_ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)")
_STOP_SECONDS = 10.0
_LINES_QUOTED = 15


class Server:
    """A process that says in its log which loopback port it listens on.

    Args:
        name: What to call it in errors.
        command: Its command line.
        folder: Its working directory.
        log: File that its output is appended to.
        environment: All of its environment variables.
        start_timeout_seconds: Longest wait for its address.

    Raises:
        StorageError: If it ends instead of listening.
        StorageUnavailableError: If it does not listen in time.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str],
        start_timeout_seconds: float,
    ) -> None:
        self._name = name
        self._log = log
        self._lifeline = ExitStack()
        variables = self._lifeline.enter_context(exit_with_parent.lifeline(folder))
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-I", exit_with_parent.__file__, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**environment, **variables},
                # Ctrl-C in the terminal is for us; we then stop the server.
                start_new_session=True,
            )
        try:
            self.port = self._wait_for_port(start_timeout_seconds)
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> str:
        """Where it listens, as a URL without a path."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it; does nothing if it has ended."""
        self._lifeline.close()
        try:
            self._guard.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    def kill(self) -> None:
        """End it at once, as a crash does, with no time to finish anything."""
        # The guard and all of the server's processes are one session.
        os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        self.stop()

    def _wait_for_port(self, timeout_seconds: float) -> int:
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            ended = self._guard.poll() is not None
            output = self._output()
            if found := _ADDRESS.search(output):
                return int(found[1])
            if ended:
                raise StorageError(
                    f"the {self._name} ended instead of starting:\n{_last_lines(output)}",
                    repair=f"see {self._log}",
                )
            time.sleep(0.05)
        raise StorageUnavailableError(
            f"the {self._name} did not start within {timeout_seconds:.0f} s:\n"
            f"{_last_lines(self._output())}",
            repair=f"see {self._log}; a busy machine may need a second try",
        )

    def _output(self) -> bytes:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read()


def _last_lines(output: bytes) -> str:
    lines = output.decode(errors="replace").splitlines()[-_LINES_QUOTED:]
    return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"
