"""Errors of requests to the Kubernetes API server."""

import json
from dataclasses import dataclass
from http import HTTPStatus

from kubernetes import client

from advgrpo.cluster.resources import Resource
from advgrpo.errors import ClusterError

_TRANSIENT = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.GONE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    0,  # The client's status for a broken TLS connection.
}
_OTHER_UID = "Precondition failed"
"""Part of the API server's message about an object with another uid."""

# Without a bound, one long pause would exceed the retry budget and end the retries at once.
_MAX_RETRY_AFTER_SECONDS = 120.0
"""Longest `Retry-After` that is respected."""


class NotFoundError(ClusterError):
    """The object does not exist."""


class UnknownResourceError(ClusterError):
    """The cluster does not have this kind of object."""


class AlreadyExistsError(ClusterError):
    """An object of the name exists, or it is not the one that was meant."""


class RejectedError(ClusterError):
    """The object is invalid, or an admission controller rejects it."""


class TransientError(Exception):
    """A failure that a retry may not meet again."""

    def __init__(self, problem: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds


class ExpiredListError(Exception):
    """The rest of a list cannot be read any more: it must be read from the beginning."""


@dataclass(frozen=True)
class Request:
    """A request to the API server."""

    verb: str
    path: str
    resource: Resource | None = None
    """Kind of the object; None for the server's own paths, such as `/version`."""

    name: str = ""
    """Name of the object; empty for all objects of the kind."""

    namespace: str = ""

    def __str__(self) -> str:
        if self.resource is None:
            return f"{self.verb} {self.path}"
        place = f" in the namespace {self.namespace}" if self.resource.namespaced else ""
        return f"{self.verb} {self.target}{place}"

    @property
    def target(self) -> str:
        """The kind and name of the object."""
        return f"{self.resource} {self.name}".strip()


def error_of(error: client.ApiException, request: Request, host: str) -> Exception:
    """Return the error for an unsuccessful answer: a `ClusterError`, or a `TransientError`.

    Args:
        error: The client's.
        request: The request that was answered.
        host: The API server.
    """
    status, message = int(error.status), _message(error)
    # A delete with a precondition also conflicts with a concurrent change of the same object;
    # only a conflict about the uid is final.
    changed = status == HTTPStatus.CONFLICT and request.verb == "delete"
    if status in _TRANSIENT or (changed and _OTHER_UID not in message):
        return TransientError(f"{status} {message}", _retry_after(error))
    # The log of a container that has not started yet is refused with 400.
    if status == HTTPStatus.NOT_FOUND or "is waiting to start" in message:
        return _not_found(request, message)
    if status == HTTPStatus.CONFLICT:
        return AlreadyExistsError(message)
    # Admission uses 403 as well, for instance for an exceeded quota.
    if status == HTTPStatus.FORBIDDEN and "cannot" in message:
        return ClusterError(
            f"not allowed to {request}: {message}",
            repair="bind the role that advgrpo's chart defines to the service account of this "
            "process",
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return ClusterError(
            f"the API server {host} does not accept the credentials",
            repair="log in again, or check the token of the service account",
        )
    return RejectedError(
        f"the API server refuses to {request}: {message}",
        repair="change the field that the message names; settings of jobs are the chart's values "
        "under `cluster`",
    )


def _not_found(request: Request, message: str) -> ClusterError:
    if request.resource is None:
        return NotFoundError(f"{request.path} does not exist")
    # The same status, 404, also stands for a missing namespace and for a kind that is not
    # installed, which retries and repairs must tell apart.
    if request.resource.namespaced and f'namespaces "{request.namespace}"' in message:
        return ClusterError(
            f"the namespace {request.namespace} does not exist",
            repair=f"create it: kubectl create namespace {request.namespace}; or use another one",
        )
    # The path of a kind that is not installed does not exist, which is answered in plain text.
    unknown = "page not found" in message or "could not find the requested resource" in message
    if unknown or not request.name:
        return UnknownResourceError(
            f"the cluster does not know {request.resource}",
            repair=f"install {request.resource.installed_by} in the cluster",
        )
    place = f" in the namespace {request.namespace}" if request.resource.namespaced else ""
    return NotFoundError(f"{request.target} does not exist{place}")


def _message(error: client.ApiException) -> str:
    # An API server answers with a Status object, a proxy in front of it with anything.
    text = error.body or error.reason or ""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return str(text).strip()


def _retry_after(error: client.ApiException) -> float:
    try:
        seconds = float((error.headers or {}).get("Retry-After", 0))
    except ValueError:
        # HTTP also allows a date, which no API server sends.
        return 0.0
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)
