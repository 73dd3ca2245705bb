"""Where an MLflow server is, in a way that can be shown."""

import os
from urllib.parse import urlsplit

from advgrpo.errors import ConfigError

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the address of the MLflow server; without it, nothing is sent."""

_INSECURE = "MLFLOW_TRACKING_INSECURE_TLS"


def require_tracking_uri(purpose: str) -> str:
    """Return the address of the MLflow server.

    Args:
        purpose: Why one is needed, for the error: a clause.

    Raises:
        ConfigError: If `MLFLOW_TRACKING_URI` is not set.
    """
    tracking_uri = os.environ.get(TRACKING_URI)
    if not tracking_uri:
        raise ConfigError(
            f"{TRACKING_URI} is not set: {purpose}",
            repair=f"set {TRACKING_URI} to the address of an MLflow server, for instance "
            "http://localhost:5000",
        )
    return tracking_uri


def check_address(tracking_uri: str) -> None:
    """Refuse an address that holds a password, and a server whose certificate is not checked.

    Raises:
        ConfigError: If it is one of these.
    """
    try:
        holds_user = "@" in urlsplit(tracking_uri).netloc
    except ValueError as error:
        raise ConfigError(
            f"{tracking_uri!r} is no address of an MLflow server: {error}",
            repair="write MLFLOW_TRACKING_URI as http://host:port or https://host",
        ) from error
    if holds_user:
        raise ConfigError(
            "the address of the MLflow server holds a user or a password, which would get into "
            "logs and records",
            repair="leave them out of MLFLOW_TRACKING_URI; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD",
        )
    if os.environ.get(_INSECURE, "").lower() in {"1", "true"}:
        raise ConfigError(
            f"{_INSECURE} is set: passwords would go to whoever answers",
            repair="unset it, and name the file with the certificates of the server's authority "
            "in MLFLOW_TRACKING_SERVER_CERT_PATH",
        )
