"""`advgrpo demo-ui`: the servers of a finished demo."""

import shlex
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from advgrpo.demo.lock import only_demo_in
from advgrpo.demo.servers import BUCKET, EmbeddedServers
from advgrpo.errors import ConfigError
from advgrpo.storage.files import write_bytes

SERVERS_FOLDER = "servers"
"""Folder of the servers' data, inside the demo's."""

VARIABLES_FILE = "environment.sh"
"""Shell variables of the servers, in their folder while they run."""


def serve(folder: Path, *, console: Console, mlflow_port: int, s3_port: int) -> None:
    """Run a demo's MLflow and S3 servers until Ctrl-C.

    Args:
        folder: The demo's folder.
        console: Output of their addresses.
        mlflow_port: Port of MLflow; 0 takes a free one.
        s3_port: Port of the S3 server; 0 takes a free one.

    Raises:
        ConfigError: If no demo has run in the folder, or one is running.
        StorageError: If a server does not start.
    """
    data = folder / SERVERS_FOLDER
    if not data.is_dir():
        raise ConfigError(
            f"no demo has run in {folder}", repair=f"run `advgrpo demo --folder {folder}` first"
        )
    # A demo that runs in the folder has its own servers on the same data.
    with only_demo_in(folder):
        console.print("Starting ...")
        # Ctrl-C raises KeyboardInterrupt during the start, and the contexts stop what has started.
        starting = EmbeddedServers(data, mlflow_port=mlflow_port, s3_port=s3_port)
        with starting as servers, shell_variables(folder, servers) as variables:
            credentials = data / "credentials.json"
            for name, value in (
                ("MLflow", servers.tracking_uri),
                ("S3", f"{servers.s3_endpoint} (bucket {BUCKET}; keys in {credentials})"),
                # As a URI, which terminals make clickable.
                ("Report", (folder / "report.html").resolve().as_uri()),
                ("Shell", f"source {shlex.quote(str(variables))}"),
            ):
                console.print(f"{name + ':':<8}{value}", markup=False, soft_wrap=True)
            console.print(
                "In a shell that has sourced that file, `advgrpo registry list` and all other "
                "commands use these servers. Press Ctrl-C to stop."
            )
            _wait_for_stop()
            console.print("Stopped.")


@contextmanager
def shell_variables(folder: Path, servers: EmbeddedServers) -> Iterator[Path]:
    """Provide a file of shell variables for a demo's servers while they run.

    Args:
        folder: The demo's folder.
        servers: Its running servers.

    Yields:
        The file. It contains the S3 credentials.
    """
    variables = folder.resolve() / SERVERS_FOLDER / VARIABLES_FILE
    # A killed demo leaves the addresses of stopped servers.
    variables.unlink(missing_ok=True)
    _write_variables(variables, servers.environment())
    try:
        yield variables
    finally:
        variables.unlink(missing_ok=True)


def _wait_for_stop() -> None:
    """Wait for Ctrl-C or SIGTERM; background processes of a shell ignore the former."""
    stopped = threading.Event()
    before = {
        # A handler that only sets an event: the main thread then closes the servers in order.
        number: signal.signal(number, lambda *_: stopped.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    stopped.wait()
    for number, handler in before.items():
        signal.signal(number, handler)


def _write_variables(path: Path, variables: Mapping[str, str]) -> None:
    """Write a shell script that exports variables; it contains credentials."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write_bytes(str(path), "".join(lines).encode())
    # Written before it is private, but in the folder of the credentials, which is private itself.
    path.chmod(0o600)
