"""What it means that Kubernetes' API server refuses a request."""

import json
from dataclasses import dataclass
from http import HTTPStatus

from kubernetes import client

from advgrpo.cluster.resources import Resource
from advgrpo.errors import ClusterError

_NEEDED = {
    "kubeflow.org": "Kubeflow's training operator, release 1.9,",
    "argoproj.io": "Argo Workflows, which Kubeflow Pipelines brings,",
}
_PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.GONE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    0,  # the client's word for a broken TLS connection
}
_NOT_MEANT = "Precondition failed"
"""What an API server says of an object with another uid."""

_LONGEST_ADVICE_SECONDS = 120.0
"""Longest wait that a server's `Retry-After` is believed."""


class NotFoundError(ClusterError):
    """There is no object of that name."""


class AlreadyExistsError(ClusterError):
    """An object has the name, or is not the one that is meant."""


class TransientError(Exception):
    """A request failed in a way that may not come again."""

    def __init__(self, problem: str, wait_seconds: float = 0.0) -> None:
        super().__init__(problem)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Asked:
    """A request."""

    verb: str
    resource: Resource
    name: str
    """Of one object; empty for all."""

    namespace: str
    host: str
    """The API server."""

    def __str__(self) -> str:
        what = f"{self.resource} {self.name}".strip()
        return f"{self.verb} {what} in the namespace {self.namespace}"


def refusal(error: client.ApiException, asked: Asked) -> Exception:
    """Say what an answer that is no success means: one of our errors, or a `TransientError`."""
    status, message = int(error.status), _message(error)
    # A delete that is meant for one object conflicts with another one, or with a change.
    changed = status == HTTPStatus.CONFLICT and asked.verb == "delete" and _NOT_MEANT not in message
    if status in _PASSING or changed:
        return TransientError(f"{status} {message}", _advised_wait(error))
    if status == HTTPStatus.NOT_FOUND or "is waiting to start" in message:
        return _missing(asked, message)
    if status == HTTPStatus.CONFLICT:
        return AlreadyExistsError(message)
    if status == HTTPStatus.FORBIDDEN and "cannot" in message:
        return ClusterError(
            f"not allowed to {asked}: {message}",
            repair="bind the role that advgrpo's chart defines to the service account that "
            "this runs as",
        )
    if status == HTTPStatus.UNAUTHORIZED:
        return ClusterError(
            f"the API server {asked.host} does not accept our credentials",
            repair="log in again, or check the token of the service account",
        )
    return ClusterError(
        f"the API server refuses to {asked}: {message}",
        repair="change what it names; settings of jobs are the chart's values under `cluster`",
    )


def _missing(asked: Asked, message: str) -> ClusterError:
    if f'namespaces "{asked.namespace}"' in message:
        return ClusterError(
            f"there is no namespace {asked.namespace}",
            repair="create it, or name another one",
        )
    unknown = "page not found" in message or "could not find the requested resource" in message
    if unknown or not asked.name:
        needed = _NEEDED.get(asked.resource.group, "what defines them")
        return ClusterError(
            f"the cluster does not know {asked.resource}", repair=f"install {needed} in the cluster"
        )
    return NotFoundError(
        f"there is no {asked.resource} {asked.name} in the namespace {asked.namespace}"
    )


def _message(error: client.ApiException) -> str:
    text = error.body or error.reason or ""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return str(text).strip()


def _advised_wait(error: client.ApiException) -> float:
    try:
        seconds = float((error.headers or {}).get("Retry-After", 0))
    except ValueError:
        # It may be a date, which no API server sends.
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_ADVICE_SECONDS)
