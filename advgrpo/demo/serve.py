"""`advgrpo demo-ui`: look at what a demo left."""

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
from advgrpo.storage import write_bytes

VARIABLES_FILE = "stores/environment.sh"
"""Among a demo's files while its stores are served."""


def serve_stores(folder: Path, *, console: Console, mlflow_port: int, s3_port: int) -> None:
    """Serve a demo's MLflow and S3 stores until Ctrl-C.

    Args:
        folder: The demo's folder.
        console: Where to say where they are.
        mlflow_port: Port of MLflow; 0 takes a free one.
        s3_port: Port of the S3 store; 0 takes a free one.

    Raises:
        ConfigError: If there was no demo, or one runs now.
        StorageError: If a server does not start.
    """
    if not (folder / "stores").is_dir():
        raise ConfigError(f"no demo has run in {folder} yet", repair="run `make demo` first")
    with only_demo_in(folder):
        console.print("Starting ...")
        serving = EmbeddedServers(folder / "stores", mlflow_port=mlflow_port, s3_port=s3_port)
        with serving as stores, variables_for_shells(folder, stores) as variables:
            credentials = folder / "stores" / "credentials.json"
            for name, value in (
                ("MLflow", stores.tracking_uri),
                ("S3", f"{stores.s3_endpoint} (bucket {BUCKET}; keys in {credentials})"),
                ("Report", (folder / "report.html").resolve().as_uri()),
                ("Shell", f"source {shlex.quote(str(variables))}"),
            ):
                console.print(f"{name + ':':<8}{value}", markup=False, soft_wrap=True)
            console.print(
                "In a shell that has read that file, `advgrpo registry list` and all other "
                "commands use these stores. Ctrl-C ends it."
            )
            _wait_for_the_end()
            console.print("Stopped.")


@contextmanager
def variables_for_shells(folder: Path, stores: EmbeddedServers) -> Iterator[Path]:
    """Keep a file by which a shell finds a demo's stores, as long as they are served.

    Args:
        folder: The demo's folder.
        stores: Its stores, being served.

    Yields:
        The file. It holds the stores' key.
    """
    variables = folder.resolve() / VARIABLES_FILE
    # One that was killed leaves the addresses of servers that are gone.
    variables.unlink(missing_ok=True)
    _write_variables(variables, stores.environment())
    try:
        yield variables
    finally:
        variables.unlink(missing_ok=True)


def _wait_for_the_end() -> None:
    """Wait for Ctrl-C or SIGTERM; a shell's background process has the first one ignored."""
    asked = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: asked.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    asked.wait()
    for number, handler in before.items():
        signal.signal(number, handler)


def _write_variables(path: Path, variables: Mapping[str, str]) -> None:
    """Write what a shell reads to find the stores; it holds their key."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write_bytes(str(path), "".join(lines).encode())
    path.chmod(0o600)
