"""A Kubeflow Pipelines server: how to reach it, and what its refusals mean."""

import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import kfp
import kfp_server_api
import urllib3.exceptions
from kfp.client import ServiceAccountTokenVolumeCredentials

from advgrpo.errors import ClusterError, ClusterUnavailableError, ConfigError
from advgrpo.redaction import hide

T = TypeVar("T")

ENDPOINT = "KF_PIPELINES_ENDPOINT"
"""Environment variable with the server's address, as the `kfp` command reads it."""

UI_ENDPOINT = "KF_PIPELINES_UI_ENDPOINT"
"""Environment variable with the address of its pages, if that is another."""

_TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
_PROJECTED_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_IN_CLUSTER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
_TIMEOUT_SECONDS = (5, 60)
_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
_BUSY = 429
_SERVER_FAULT = 500
# Of a server that the connection never reached, trying again in a second says the same.
_NEVER_REACHED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.SSLError,
    urllib3.exceptions.LocationParseError,
)


def get_or_create(find: Callable[[], T | None], make: Callable[[], T]) -> T:
    """Find something on a server, or make it.

    Raises:
        ClusterError: If it can be neither found nor made.
    """
    if (found := find()) is not None:
        return found
    try:
        return make()
    except ClusterError:
        # Somebody else made it just now, or the answer was lost.
        if (found := find()) is None:
            raise
        return found


class KfpRefusedError(ClusterError):
    """The server refuses what is asked of it."""

    def __init__(self, message: str, *, repair: str, status: int) -> None:
        super().__init__(message, repair=repair)
        self.status = status


@dataclass(frozen=True)
class Access:
    """How to reach a Kubeflow Pipelines server. What is empty comes from the environment."""

    endpoint: str = ""
    """Its address; else `KF_PIPELINES_ENDPOINT`, or in a pod that of a usual installation."""

    namespace: str = ""
    """The user's namespace, where the server has many users; in a pod, that of the pod."""

    token: str = ""
    """Bearer token."""

    token_file: Path | None = None
    """File with a bearer token, read anew for every request; else `KF_PIPELINES_SA_TOKEN_PATH`, or
    in a pod the token that is mounted for Kubeflow Pipelines."""

    cookies: str = ""
    """Value of the header `Cookie`."""

    ca_file: Path | None = None
    """Certificates to check the server's against; it is always checked."""


class KfpServer:
    """A server that has been reached and accepts who asks.

    Args:
        access: How to reach it.

    Raises:
        ConfigError: If it is not said where the server is, its address holds a password, or a file
            that is named is missing.
        ClusterUnavailableError: If it does not answer.
        ClusterError: If it does not accept who asks, or what answers is not Kubeflow Pipelines.
    """

    def __init__(self, access: Access) -> None:
        hide(access.token)
        hide(access.cookies)
        self.endpoint = endpoint_of(access)
        self._signed_in = bool(access.token or access.cookies or _token_file(access))
        self._api = _client(access, self.endpoint)
        self.models: Any = self._api.api_models
        self.experiments: Any = self._api.experiments
        self.pipelines: Any = self._api.pipelines
        self.pipeline_uploads: Any = self._api.pipeline_uploads
        self.runs: Any = self._api.runs
        self.recurring_runs: Any = self._api.recurring_runs
        self.has_many_users = self._many_users()
        self.namespace = _namespace(access) if self.has_many_users else None
        """Where experiments and runs are; None where the server has a single user."""

    @property
    def within(self) -> dict[str, str]:
        """The argument of listings that keeps them to the namespace, where there are several."""
        return {"namespace": self.namespace} if self.namespace else {}

    def page(self, path: str) -> str:
        """Name a page of its user interface.

        Args:
            path: For instance `runs/details/ID`.
        """
        base = os.environ.get(UI_ENDPOINT) or self.endpoint
        return f"{_with_scheme(base).rstrip('/')}/#/{path}"

    def look(self, what: str, ask: Callable[..., Any], **arguments: object) -> Any:  # noqa: ANN401
        """Ask something that changes nothing; a fault that may pass is tried again a few times.

        Args:
            what: What is attempted, as in "cannot {what}".
            ask: A method of one of the server's interfaces.
            arguments: What it takes.

        Raises:
            ClusterUnavailableError: If the server does not answer, or not now.
            ClusterError: If it refuses.
        """
        for pause in _PAUSES_SECONDS:
            try:
                return self.change(what, ask, **arguments)
            except ClusterUnavailableError as error:
                if _never_reached(error.__cause__):
                    raise
                time.sleep(pause)
        return self.change(what, ask, **arguments)

    def change(self, what: str, ask: Callable[..., Any], **arguments: object) -> Any:  # noqa: ANN401
        """Ask for something once, with the arguments and errors of `look`."""
        try:
            return ask(**arguments, _request_timeout=_TIMEOUT_SECONDS)
        except kfp_server_api.ApiException as error:
            raise self._explained(error, what) from error
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error, what) from error

    def _many_users(self) -> bool:
        """Read the server's health, which also shows that it is one and whom it accepts."""
        health = self.change(
            "reach Kubeflow Pipelines",
            self._api.healthzs.healthz_service_get_healthz,
            _preload_content=False,
        )
        try:
            return bool(json.loads(health.data).get("multi_user", False))
        except (ValueError, AttributeError) as error:
            raise ClusterError(
                f"{self.endpoint} answers with a page, not as the API of Kubeflow Pipelines does",
                repair="if the page is a log-in, give --token, --token-file or --cookies; if it is "
                "that of Kubeflow's dashboard, the API is at its address followed by /pipeline",
            ) from error

    def _explained(self, error: Any, what: str) -> ClusterError:  # noqa: ANN401 - untyped library
        status, message = int(error.status or 0), _message(error)
        said = f"cannot {what}: {self.endpoint} answers {status}: {message}"
        if status == 0:
            return ClusterUnavailableError(said, repair=_connection_repair(message))
        if status == _BUSY or status >= _SERVER_FAULT:
            return ClusterUnavailableError(
                said, repair="try again; if it stays so, read the log of the pod ml-pipeline"
            )
        return KfpRefusedError(said, repair=self._repair(status), status=status)

    def _repair(self, status: int) -> str:
        if status == 401 and not self._signed_in:
            return "give --token, --token-file or --cookies"
        if status == 401:
            return (
                "get a new token or cookie; a service account's token must be for the audience "
                "pipelines.kubeflow.org"
            )
        if status == 403:
            return (
                "check --namespace, and that who asks may edit Kubeflow Pipelines there (role "
                "kubeflow-edit)"
            )
        if status == 404:
            return "check the names and ids; the server may also be older than Pipelines 2.17"
        return "correct what the answer names"

    def _unreachable(self, error: Exception, what: str) -> ClusterUnavailableError:
        return ClusterUnavailableError(
            f"cannot {what}: {self.endpoint} cannot be reached: {error}",
            repair=_connection_repair(str(error)),
        )


def _never_reached(error: BaseException | None) -> bool:
    reason = getattr(error, "reason", None)
    return isinstance(error, _NEVER_REACHED) or isinstance(reason, _NEVER_REACHED)


def _connection_repair(message: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in message or "certificate verify failed" in message:
        return "give the certificates of the server's authority with --ca FILE"
    if "WRONG_VERSION_NUMBER" in message or "RECORD_LAYER_FAILURE" in message:
        return "the server speaks plain HTTP: begin the endpoint with http://"
    return (
        "check --endpoint; from outside the cluster, for instance: "
        "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80, then --endpoint "
        "http://localhost:8080"
    )


def _message(error: Any) -> str:  # noqa: ANN401 - untyped library
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    try:
        answer = json.loads(body)
        return str(answer.get("message") or answer["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return str(error.reason or body or "no reason given")


def endpoint_of(access: Access) -> str:
    """Say where the server is.

    Raises:
        ConfigError: If nothing says it, or the address holds a password.
    """
    named = access.endpoint or os.environ.get(ENDPOINT, "")
    if "@" in urlsplit(_with_scheme(named)).netloc:
        raise ConfigError(
            "the address of Kubeflow Pipelines holds a user or a password, which would get into "
            "logs",
            repair=f"leave them out of --endpoint and {ENDPOINT}; give --token or --cookies",
        )
    if named:
        return _with_scheme(named).rstrip("/")
    if _SERVICE_ACCOUNT.is_dir():
        return _IN_CLUSTER
    raise ConfigError(
        "it is not said where Kubeflow Pipelines is",
        repair=f"give --endpoint or set {ENDPOINT}, for instance to http://localhost:8080 after "
        "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80",
    )


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"https://{address}"


def _namespace(access: Access) -> str:
    if access.namespace:
        return access.namespace
    try:
        return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            "this Kubeflow Pipelines has many users, and it is not said whose namespace is meant",
            repair="give --namespace",
        ) from error


def _token_file(access: Access) -> Path | None:
    named = access.token_file or os.environ.get(_TOKEN_FILE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise ConfigError(
                f"there is no token file {path}", repair=f"correct --token-file or {_TOKEN_FILE}"
            )
        return path
    return _PROJECTED_TOKEN if _PROJECTED_TOKEN.is_file() else None


def _client(access: Access, endpoint: str) -> Any:  # noqa: ANN401 - untyped library
    if access.ca_file is not None and not access.ca_file.is_file():
        raise ConfigError(f"there is no file {access.ca_file}", repair="correct --ca")
    file = None if access.token or access.cookies else _token_file(access)
    with warnings.catch_warnings():
        # It says which servers it works with.
        warnings.simplefilter("ignore", FutureWarning)
        return kfp.Client(
            endpoint,
            # It is not used; without one the client asks for the server's health, and where that
            # is refused, five times over half a minute.
            namespace="unused",
            existing_token=access.token or None,
            credentials=ServiceAccountTokenVolumeCredentials(str(file)) if file else None,
            cookies=access.cookies or None,
            ssl_ca_cert=str(access.ca_file) if access.ca_file else None,
        )
