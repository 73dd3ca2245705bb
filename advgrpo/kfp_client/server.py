"""A Kubeflow Pipelines server: requests, retries and what its errors mean."""

import functools
import json
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import kfp_server_api
import urllib3.exceptions

from advgrpo.errors import ClusterError, ClusterUnavailableError
from advgrpo.kfp_client.access import (
    Access,
    endpoint_of,
    in_pod,
    make_client,
    user_namespace,
    with_scheme,
)
from advgrpo.redaction import hide

T = TypeVar("T")

UI_ENDPOINT = "KF_PIPELINES_UI_ENDPOINT"
"""Environment variable of the user interface's address, if it is not the server's."""

# To connect, and to wait for each part of the answer.
_TIMEOUT_SECONDS = (5, 60)
_RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0)
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
# The connection was never established; a retry within seconds fails the same way.
_CONNECT_ERRORS = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.SSLError,
    urllib3.exceptions.LocationParseError,
)


def get_or_create(find: Callable[[], T | None], create: Callable[[], T]) -> T:
    """Find something on a server, or create it.

    Raises:
        ClusterError: If it can be neither found nor created.
    """
    if (found := find()) is not None:
        return found
    try:
        return create()
    except ClusterError:
        # Another client created it in between, or the response was lost.
        if (found := find()) is None:
            raise
        return found


class KfpRefusedError(ClusterError):
    """A request that the server refused."""

    def __init__(self, message: str, *, repair: str, status: int) -> None:
        super().__init__(message, repair=repair)
        self.status = status


class KfpServer:
    """A server that has answered and accepts the credentials.

    Args:
        access: Its address and credentials.

    Raises:
        ConfigError: If the address is not configured or contains a password, or a file does not
            exist.
        ClusterUnavailableError: If it does not answer.
        ClusterError: If it rejects the credentials, or is not Kubeflow Pipelines.
    """

    def __init__(self, access: Access) -> None:
        # From now on, logs and errors contain neither.
        hide(access.token)
        hide(access.cookies)
        self.endpoint = endpoint_of(access)
        self._has_credentials = access.has_credentials
        self._api = make_client(access, self.endpoint)
        self.models: Any = self._api.api_models
        self.experiments: Any = self._api.experiments
        self.pipelines: Any = self._api.pipelines
        self.pipeline_uploads: Any = self._api.pipeline_uploads
        self.runs: Any = self._api.runs
        self.recurring_runs: Any = self._api.recurring_runs
        self.namespace = user_namespace(access) if self._is_multi_user() else None
        """Namespace of experiments and runs; None on a single-user server."""

    @property
    def namespace_filter(self) -> dict[str, str]:
        """The argument that restricts a list request to the namespace, if there is one."""
        return {"namespace": self.namespace} if self.namespace else {}

    def page(self, path: str) -> str:
        """Return the URL of a page of the user interface.

        Args:
            path: For instance `runs/details/ID`.
        """
        base = os.environ.get(UI_ENDPOINT) or self.endpoint
        return f"{with_scheme(base).rstrip('/')}/#/{path}"

    def read(self, action: str, method: Callable[..., Any], **arguments: object) -> Any:  # noqa: ANN401
        """Send a request that changes nothing, retrying transient errors.

        Args:
            action: What is attempted, as in "cannot {action}".
            method: A method of one of the server's interfaces.
            arguments: Its arguments.

        Raises:
            ClusterUnavailableError: If the server does not answer, or is overloaded.
            ClusterError: If it refuses.
        """
        for delay in _RETRY_DELAYS_SECONDS:
            try:
                return self.read_once(action, method, **arguments)
            except ClusterUnavailableError as error:
                # The cause has the client's exception; ours is the same for all kinds.
                if _is_connect_error(error.__cause__):
                    raise
                time.sleep(delay)
        return self.read_once(action, method, **arguments)

    def read_log(self, run_id: str, pod: str) -> str:
        """Read the log of a task's pod, once.

        Raises:
            ClusterUnavailableError: If the server does not answer.
            ClusterError: If it refuses, or has no log.
        """
        # The server has this path in a version without a client.
        path = f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log"
        answer = self.read_once(
            f"read the log of the pod {pod}",
            functools.partial(self._api.runs.api_client.call_api, path, "GET"),
            auth_settings=["Bearer"],
            _preload_content=False,
        )
        return str(answer.data.decode(errors="replace"))

    def read_once(self, action: str, method: Callable[..., Any], **arguments: object) -> Any:  # noqa: ANN401
        """Send a request once; arguments and errors are those of `read`."""
        try:
            return method(**arguments, _request_timeout=_TIMEOUT_SECONDS)
        except kfp_server_api.ApiException as error:
            raise self._refusal(error, action) from error
        except urllib3.exceptions.HTTPError as error:
            raise ClusterUnavailableError(
                f"cannot {action}: {self.endpoint} cannot be reached: {error}",
                repair=_connection_repair(str(error)),
            ) from error

    # A retry after a lost response would create a second run.
    write = read_once

    def _is_multi_user(self) -> bool:
        """Read the server's health, which also proves that it is one and takes the credentials."""
        health = self.read_once(
            "reach Kubeflow Pipelines",
            self._api.healthzs.healthz_service_get_healthz,
            # Not decoded: a login page, which has status 200 too, is not the model that the client
            # expects.
            _preload_content=False,
        )
        try:
            return bool(json.loads(health.data).get("multi_user", False))
        except (ValueError, AttributeError) as error:
            raise ClusterError(
                f"{self.endpoint} answers with a page, not as the API of Kubeflow Pipelines does",
                repair="if the page is a login, use --token, --token-file or --cookies; if it is "
                "the Kubeflow dashboard, the API is at its address followed by /pipeline",
            ) from error

    def _refusal(self, error: Any, action: str) -> ClusterError:  # noqa: ANN401 - untyped library
        status, reason = int(error.status or 0), _message(error)
        message = f"cannot {action}: {self.endpoint} answers {status}: {reason}"
        # The client's status for a TLS error.
        if status == 0:
            return ClusterUnavailableError(message, repair=_connection_repair(reason))
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            return ClusterUnavailableError(
                message, repair="retry; if the error persists, read the log of the pod ml-pipeline"
            )
        return KfpRefusedError(message, repair=self._repair(status), status=status)

    def _repair(self, status: int) -> str:
        if status == 401 and not self._has_credentials:
            return "use --token, --token-file or --cookies"
        if status == 401:
            return (
                "get a new token or cookie; a service account's token must be for the audience "
                "pipelines.kubeflow.org"
            )
        if status == 403:
            return (
                "set --namespace to a namespace of yours, or bind the role kubeflow-edit to this "
                "user or service account there"
            )
        if status == 404:
            return (
                "use names and ids that the server lists; it may also be older than Pipelines 2.17"
            )
        return "change the option or setting that the response names"


def _is_connect_error(error: BaseException | None) -> bool:
    # urllib3 wraps the error of the last attempt in a MaxRetryError.
    reason = getattr(error, "reason", None)
    return isinstance(error, _CONNECT_ERRORS) or isinstance(reason, _CONNECT_ERRORS)


def _connection_repair(message: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in message or "certificate verify failed" in message:
        return "use --ca FILE with the certificates of the server's CA"
    if "WRONG_VERSION_NUMBER" in message or "RECORD_LAYER_FAILURE" in message:
        return "the server speaks plain HTTP: start the endpoint with http://"
    if in_pod():
        return (
            "set kubeflow.endpoint in the chart's values, or KF_PIPELINES_ENDPOINT, to an address "
            "that pods reach; network policies must admit them"
        )
    return (
        "set --endpoint to an address that this machine reaches; from outside the cluster, for "
        "instance: kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80, then --endpoint "
        "http://localhost:8080"
    )


def _message(error: Any) -> str:  # noqa: ANN401 - untyped library
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    try:
        answer = json.loads(body)
        return str(answer.get("message") or answer["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return str(error.reason or body or "no reason given")
