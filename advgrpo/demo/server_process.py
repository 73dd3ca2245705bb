"""A server process on a free loopback port."""

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

# The server binds port 0 and logs its choice: a port that was free when it was chosen here could be
# taken before the server binds it.
_ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)")
# More than the grace period of the guard, after which it kills the server.
_STOP_SECONDS = 10.0
_LINES_QUOTED = 15


class Server:
    """A process whose log names the loopback port that it listens on.

    Args:
        name: Its name in errors.
        command: Its command line.
        folder: Its working directory.
        log: File that its output is appended to.
        environment: Its complete environment.
        start_timeout_seconds: Timeout until it listens.

    Raises:
        StorageError: If it exits instead of listening.
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
        # The guard ends the server when this process is gone, even if it was killed.
        variables = self._lifeline.enter_context(exit_with_parent.lifeline(folder))
        with log.open("ab") as output:
            # The log is appended to: older addresses in it are those of earlier servers.
            self._log_start = output.tell()
            self._guard = subprocess.Popen(
                # Isolated: PYTHONPATH and the working directory must not shadow its modules.
                [sys.executable, "-I", exit_with_parent.__file__, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                # The address may be logged to either stream.
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**environment, **variables},
                # Ctrl-C must reach this process alone, which then stops the server.
                start_new_session=True,
            )
        try:
            self.port = self._wait_for_port(start_timeout_seconds)
        # Also KeyboardInterrupt, so that a cancelled start leaves no server behind.
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> str:
        """Its URL, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Stop it; does nothing if it has exited."""
        # Releases the lock that the guard waits for.
        self._lifeline.close()
        try:
            self._guard.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        # The guard and all processes of the server share a session, hence a process group.
        os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        self.stop()

    def _wait_for_port(self, timeout_seconds: float) -> int:
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            # Before the log is read, or the last lines of an exiting server could be missed.
            has_exited = self._guard.poll() is not None
            output = self._output()
            if found := _ADDRESS.search(output):
                return int(found[1])
            if has_exited:
                raise StorageError(
                    f"the {self._name} exited at its start:\n{_last_lines(output)}",
                    repair=f"fix the cause that {self._log} shows, and start again",
                )
            time.sleep(0.05)
        raise StorageUnavailableError(
            f"the {self._name} did not start within {timeout_seconds:.0f} s:\n"
            f"{_last_lines(self._output())}",
            repair=f"start again on a less busy machine, or fix the cause that {self._log} shows",
        )

    def _output(self) -> bytes:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read()


def _last_lines(output: bytes) -> str:
    lines = output.decode(errors="replace").splitlines()[-_LINES_QUOTED:]
    return "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"
