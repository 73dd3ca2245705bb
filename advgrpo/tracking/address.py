"""The address of the MLflow server, without credentials."""

import os
from urllib.parse import urlsplit

from advgrpo.errors import ConfigError
from advgrpo.telemetry.kfp_plugin import set_own_mlflow

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the address of the MLflow server; if it is unset, nothing is sent."""

# Of MLflow without a server.
_STORES = {"databricks", "file", "mssql", "mysql", "postgresql", "sqlite"}
_INSECURE = "MLFLOW_TRACKING_INSECURE_TLS"


def tracking_uri() -> str | None:
    """Return the address of the MLflow server; None without one."""
    set_own_mlflow()
    return os.environ.get(TRACKING_URI)


def require_tracking_uri(purpose: str) -> str:
    """Return the address of the MLflow server.

    Args:
        purpose: Why one is needed, for the error: a clause.

    Raises:
        ConfigError: If `MLFLOW_TRACKING_URI` is not set.
    """
    address = tracking_uri()
    if not address:
        raise ConfigError(
            f"{TRACKING_URI} is not set: {purpose}",
            repair=f"set {TRACKING_URI} to the address of an MLflow server, for instance "
            "http://localhost:5000",
        )
    return address


def check_address(tracking_uri: str) -> None:
    """Check that an address is one, contains no password, and that certificates are verified.

    Raises:
        ConfigError: If not.
    """
    try:
        parts = urlsplit(tracking_uri)
        has_user = "@" in parts.netloc
    except ValueError as error:
        raise ConfigError(
            f"{TRACKING_URI}={tracking_uri}: not a valid address: {error}",
            repair=f"set {TRACKING_URI} to http://host:port or https://host",
        ) from error
    if has_user:
        raise ConfigError(
            f"{TRACKING_URI} contains a user or a password, which would appear in logs and records",
            repair="remove them, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    scheme = parts.scheme.partition("+")[0]
    is_store = scheme in _STORES or tracking_uri.startswith(("/", "."))
    if not (scheme in {"http", "https"} and parts.hostname) and not is_store:
        raise ConfigError(
            f"{TRACKING_URI}={tracking_uri}: not the address of an MLflow server",
            repair=f"set {TRACKING_URI} to http://host:port or https://host",
        )
    # MLflow reads this variable itself and would skip verification silently.
    if os.environ.get(_INSECURE, "").lower() in {"1", "true"}:
        raise ConfigError(
            f"{_INSECURE} is set: passwords would be sent to an unverified server",
            repair="unset it, and set MLFLOW_TRACKING_SERVER_CERT_PATH to the file with the "
            "certificates of the server's authority",
        )
