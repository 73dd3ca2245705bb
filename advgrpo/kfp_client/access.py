"""Address of and credentials for a Kubeflow Pipelines server."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp
from kfp.client import ServiceAccountTokenVolumeCredentials

from advgrpo.errors import ConfigError

ENDPOINT = "KF_PIPELINES_ENDPOINT"
"""Environment variable of the server's address, as the `kfp` command reads it."""

_TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
_PROJECTED_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"


@dataclass(frozen=True)
class Access:
    """Address and credentials; empty values default to the environment."""

    endpoint: str = ""
    """Address; defaults to `KF_PIPELINES_ENDPOINT`, in a pod to that of a usual installation."""

    namespace: str = ""
    """The user's namespace on a multi-user server; in a pod, defaults to the pod's."""

    token: str = ""
    """Bearer token."""

    token_file: Path | None = None
    """File with a bearer token, read again for each request; defaults to
    `KF_PIPELINES_SA_TOKEN_PATH`, in a pod to the token that is mounted for Kubeflow Pipelines."""

    cookies: str = ""
    """Value of the header `Cookie`."""

    ca_file: Path | None = None
    """CA certificates that verify the server's; verification cannot be switched off."""

    @property
    def has_credentials(self) -> bool:
        """Whether requests carry a token or cookies."""
        return bool(self.token or self.cookies or _token_file(self))


def endpoint_of(access: Access) -> str:
    """Return the server's URL.

    Raises:
        ConfigError: If it is not configured, or contains a password.
    """
    address = access.endpoint or os.environ.get(ENDPOINT, "")
    if "@" in urlsplit(with_scheme(address)).netloc:
        raise ConfigError(
            "the address of Kubeflow Pipelines contains a user or a password, which would be "
            "written to logs",
            repair=f"remove them from --endpoint and {ENDPOINT}; use --token or --cookies",
        )
    if address:
        return with_scheme(address).rstrip("/")
    if in_pod():
        return _IN_CLUSTER
    raise ConfigError(
        "the address of Kubeflow Pipelines is not configured",
        repair=f"use --endpoint or set {ENDPOINT}, for instance to http://localhost:8080 after "
        "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80",
    )


def in_pod() -> bool:
    """Whether this process runs in a pod of a cluster."""
    # Pods without a token of the API server, as the chart's upload, have the variable alone.
    return "KUBERNETES_SERVICE_HOST" in os.environ


def with_scheme(address: str) -> str:
    """Return an address with `https://`, unless it has a scheme."""
    # Not http, which would send the token in the clear.
    return address if "://" in address else f"https://{address}"


def user_namespace(access: Access) -> str:
    """Return the user's namespace.

    Raises:
        ConfigError: If it is not configured.
    """
    if access.namespace:
        return access.namespace
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            "this Kubeflow Pipelines has several users, and the namespace is not configured",
            repair="use --namespace with the name of your profile",
        ) from error


def make_client(access: Access, endpoint: str) -> Any:  # noqa: ANN401 - untyped library
    """Return a `kfp.Client`."""
    if access.ca_file is not None and not access.ca_file.is_file():
        raise ConfigError(
            f"--ca={access.ca_file}: does not exist",
            repair="give the path of a PEM file with the CA's certificates",
        )
    # A login that the user names has precedence over a pod's token.
    file = None if access.token or access.cookies else _token_file(access)
    with warnings.catch_warnings():
        # The client announces which server versions it supports.
        warnings.simplefilter("ignore", FutureWarning)
        return kfp.Client(
            endpoint,
            # Unused, but without one the client reads the server's health, which it retries for
            # half a minute where that is refused.
            namespace="unused",
            existing_token=access.token or None,
            # Read for each request, because the kubelet replaces the token before it expires.
            credentials=ServiceAccountTokenVolumeCredentials(str(file)) if file else None,
            cookies=access.cookies or None,
            ssl_ca_cert=str(access.ca_file) if access.ca_file else None,
        )


def _token_file(access: Access) -> Path | None:
    configured = access.token_file or os.environ.get(_TOKEN_FILE)
    if not configured:
        return _PROJECTED_TOKEN if _PROJECTED_TOKEN.is_file() else None
    path = Path(configured)
    if not path.is_file():
        setting = "--token-file" if access.token_file else _TOKEN_FILE
        raise ConfigError(
            f"{setting}={path}: does not exist", repair="give the path of a file with a token"
        )
    return path
