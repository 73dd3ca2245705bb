"""Requests to Kubernetes' API server: each with a time limit, repeated while that may help."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import urllib3
import yaml
from kubernetes import client, config

from advgrpo.cluster.clock import Clock
from advgrpo.errors import ClusterError, ClusterUnavailableError
from advgrpo.prometheus import API_RETRIES

Json = dict[str, Any]
T = TypeVar("T")

_METHODS = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "patch": "PATCH",
    "delete": "DELETE",
}
_NEEDED = {
    "kubeflow.org": "Kubeflow's training operator, release 1.9,",
    "argoproj.io": "Argo Workflows, which Kubeflow Pipelines brings,",
}
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
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

UNUSABLE_FILE = (
    config.ConfigException,
    OSError,
    TypeError,  # it is YAML, but no mapping
    UnicodeDecodeError,
    yaml.YAMLError,
)
"""What the client raises for a kubeconfig file that it cannot use."""

_LONGEST_ADVICE_SECONDS = 120.0
"""Longest wait that a server's `Retry-After` is believed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resource:
    """A kind of object."""

    group: str
    """API group; empty for the core."""

    version: str
    plural: str

    def path(self, namespace: str, name: str = "") -> str:
        """Give the path of one object, or of all in a namespace."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
WORKFLOWS = Resource("argoproj.io", "v1alpha1", "workflows")


@dataclass(frozen=True)
class Patience:
    """How long to wait for the API server."""

    connect_seconds: float = 5.0
    read_seconds: float = 30.0
    budget_seconds: float = 900.0
    """How long a request is repeated before the server counts as unavailable."""

    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 30.0


class NotThereError(ClusterError):
    """There is no object of that name."""


class AlreadyThereError(ClusterError):
    """An object has the name, or is not the one that is meant."""


class _PassingError(Exception):
    """A request failed in a way that may not come again."""

    def __init__(self, problem: str, wait_seconds: float = 0.0) -> None:
        super().__init__(problem)
        self.wait_seconds = wait_seconds


class Api:
    """One namespace's objects.

    Args:
        configuration: Leads to the API server.
        namespace: Where all objects are.
        patience: How long to wait.
        clock: Tells the time.
    """

    def __init__(
        self,
        configuration: client.Configuration,
        namespace: str,
        *,
        patience: Patience | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.namespace = namespace
        self.patience = patience or Patience()
        self.clock = clock or Clock()
        self._configuration = configuration
        self._client = client.ApiClient(configuration)

    def get(self, resource: Resource, name: str, *, patient: bool = True) -> Json:
        """Read an object.

        Args:
            resource: Its kind.
            name: Its name.
            patient: Whether to ask again if asking fails; else that is an error at once.

        Raises:
            NotThereError: If there is none of that name.
            ClusterUnavailableError: If the API server does not answer.
            ClusterError: If it refuses.
        """
        return self._json("get", resource, name, patient=patient)

    def list(self, resource: Resource, *, patient: bool = True, **query: str) -> "list[Json]":
        """Read all objects that a query chooses.

        Args:
            resource: Their kind.
            patient: Whether to ask again if asking fails; else that is an error at once.
            query: Parameters of the request, for instance `labelSelector`.

        Raises:
            ClusterUnavailableError: If the API server does not answer.
            ClusterError: If it refuses.
        """
        found: list[Json] = []
        while True:
            page = self._json("list", resource, query=query, patient=patient)
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token or "limit" in query:
                return found
            query["continue"] = token

    def create(self, resource: Resource, body: Json) -> Json:
        """Create an object.

        If an answer is lost, the request is repeated, and the object may already be there.

        Raises:
            AlreadyThereError: If an object has the name.
            ClusterUnavailableError: If the API server does not answer for too long.
            ClusterError: If it refuses.
        """
        return self._json("create", resource, body=body)

    def patch(self, resource: Resource, name: str, change: Json) -> Json:
        """Apply a merge patch to an object.

        Raises:
            NotThereError: If there is none of that name.
            ClusterUnavailableError: If the API server does not answer for too long.
            ClusterError: If it refuses.
        """
        return self._json("patch", resource, name, body=change)

    def delete(self, resource: Resource, name: str, *, uid: str = "", patient: bool = True) -> bool:
        """Delete an object; it is gone once what it owns is.

        Args:
            resource: Its kind.
            name: Its name.
            uid: The one that is meant; another of the same name stays.
            patient: Whether to ask again if asking fails; else that is an error at once.

        Returns:
            Whether it was there.

        Raises:
            ClusterUnavailableError: If the API server does not answer.
            ClusterError: If it refuses.
        """
        options: Json = {"propagationPolicy": "Foreground"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self._json("delete", resource, name, body=options, patient=patient)
        except (NotThereError, AlreadyThereError):
            return False
        return True

    def log(self, pod: str, *, patient: bool = False, **query: str) -> bytes:
        """Read a pod's log.

        Args:
            pod: Its name.
            patient: Whether to ask again if asking fails; else that is an error at once.
            query: Parameters of the request, for instance `sinceTime`.

        Raises:
            NotThereError: If there is no such pod.
            ClusterUnavailableError: If the API server does not answer.
            ClusterError: If it refuses, for instance because the container has not started.
        """

        def ask() -> bytes:
            return self._once("get", PODS, f"{pod}/log", query, None)

        return self._repeated(ask, patient=patient)

    def apart(self, *, longest_seconds: float) -> "Api":
        """Give the same with connections of its own.

        Args:
            longest_seconds: Its requests take no longer, each.
        """
        patience = replace(
            self.patience,
            connect_seconds=min(self.patience.connect_seconds, longest_seconds),
            read_seconds=min(self.patience.read_seconds, longest_seconds),
        )
        return Api(self._configuration, self.namespace, patience=patience, clock=self.clock)

    def close(self) -> None:
        """Close all connections."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def _json(
        self,
        verb: str,
        resource: Resource,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        patient: bool = True,
    ) -> Json:
        def ask() -> Json:
            answer = self._once(verb, resource, name, query or {}, body)
            try:
                found: Json = json.loads(answer)
            except ValueError as error:
                raise _PassingError("an answer was cut off") from error
            return found

        return self._repeated(ask, patient=patient)

    def _repeated(self, ask: Callable[[], T], *, patient: bool) -> T:
        """Ask until there is an answer, with longer and longer waits."""
        patience, start = self.patience, self.clock.monotonic()
        wait = patience.first_wait_seconds
        while True:
            try:
                return ask()
            except _PassingError as problem:
                pause = max(wait, problem.wait_seconds)
                waited = self.clock.monotonic() - start
                if not patient or waited + pause > patience.budget_seconds:
                    raise ClusterUnavailableError(
                        f"the API server {self._configuration.host} did not answer for "
                        f"{waited:.0f} s: {problem}",
                        repair="try again once it does; a job that runs goes on meanwhile",
                    ) from problem
                API_RETRIES.inc()
                logger.info("the API server: %s; asking again in %.0f s", problem, pause)
            self.clock.sleep(pause)
            wait = min(2 * wait, patience.longest_wait_seconds)

    def _once(
        self,
        verb: str,
        resource: Resource,
        name: str,
        query: Mapping[str, str],
        body: Json | None,
    ) -> bytes:
        # The client's own methods neither know a log's `sinceTime`, nor a merge patch of a custom
        # object, nor tell an answer that was cut off from a text.
        kind = "application/merge-patch+json" if verb == "patch" else "application/json"
        try:
            response, *_ = self._client.call_api(
                resource.path(self.namespace, name),
                _METHODS[verb],
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(self.patience.connect_seconds, self.patience.read_seconds),
            )
            content: bytes = response.read()
        except client.ApiException as error:
            raise self._refusal(verb, resource, name, error) from error
        except (urllib3.exceptions.HTTPError, OSError, UnicodeDecodeError) as error:
            raise _PassingError(f"{type(error).__name__}: {error}") from error
        return content

    def _refusal(
        self, verb: str, resource: Resource, name: str, error: client.ApiException
    ) -> Exception:
        status, message = int(error.status), _message(error)
        # A delete that is meant for one object conflicts with another one, or with a change.
        changed = status == HTTPStatus.CONFLICT and verb == "delete" and _NOT_MEANT not in message
        if status in _PASSING or changed:
            return _PassingError(f"{status} {message}", _advised_wait(error))
        what = f"{resource} {name}".strip()
        if status == HTTPStatus.NOT_FOUND or "is waiting to start" in message:
            return self._missing(resource, name, message)
        if status == HTTPStatus.CONFLICT:
            return AlreadyThereError(message)
        if status == HTTPStatus.FORBIDDEN and "cannot" in message:
            return ClusterError(
                f"not allowed to {verb} {what} in the namespace {self.namespace}: {message}",
                repair="bind the role that advgrpo's chart defines to the service account that "
                "this runs as",
            )
        if status == HTTPStatus.UNAUTHORIZED:
            return ClusterError(
                f"the API server {self._configuration.host} does not accept our credentials",
                repair="log in again, or check the token of the service account",
            )
        return ClusterError(
            f"the API server refuses to {verb} {what} in the namespace {self.namespace}: {message}",
            repair="change what it names; settings of jobs are the chart's values under `cluster`",
        )

    def _missing(self, resource: Resource, name: str, message: str) -> ClusterError:
        if f'namespaces "{self.namespace}"' in message:
            return ClusterError(
                f"there is no namespace {self.namespace}",
                repair="create it, or name another one",
            )
        unknown = "page not found" in message or "could not find the requested resource" in message
        if unknown or not name:
            needed = _NEEDED.get(resource.group, "what defines them")
            return ClusterError(
                f"the cluster does not know {resource}", repair=f"install {needed} in the cluster"
            )
        return NotThereError(f"there is no {resource} {name} in the namespace {self.namespace}")


def connect(namespace: str = "") -> Api:
    """Reach Kubernetes from within a pod, or as a kubeconfig file says.

    Args:
        namespace: Where objects are; empty for the pod's own, or the kubeconfig's.

    Raises:
        ClusterError: If there is no way to it.
    """
    settings = client.Configuration()
    # Repeating is done here, where it is bounded and can be seen.
    settings.retries = False
    try:
        config.load_incluster_config(client_configuration=settings)
        own = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as no_pod:
        try:
            # The client reads the variable as it is imported only.
            file = os.environ.get("KUBECONFIG")
            config.load_kube_config(file, client_configuration=settings)
            _, context = config.list_kube_config_contexts(file)
        except UNUSABLE_FILE as error:
            raise ClusterError(
                f"no way to Kubernetes: in a pod, {no_pod}; elsewhere, {error}",
                repair="set KUBECONFIG to a file that kubectl can use, or let the pod's service "
                "account mount its token",
            ) from error
        own = context["context"].get("namespace", "default")
    return Api(settings, namespace or own)


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
