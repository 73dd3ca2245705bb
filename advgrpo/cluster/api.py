"""Client of the Kubernetes API server: timeouts, and retries with exponential backoff."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeVar

import urllib3
from kubernetes import client

from advgrpo.cluster.api_errors import (
    AlreadyExistsError,
    ExpiredListError,
    NotFoundError,
    Request,
    TransientError,
    error_of,
)
from advgrpo.cluster.clock import Clock
from advgrpo.cluster.resources import PODS, Resource
from advgrpo.errors import ClusterUnavailableError
from advgrpo.telemetry.prometheus import API_RETRIES

Json = dict[str, Any]
T = TypeVar("T")

_METHODS = {"get": "GET", "list": "GET", "create": "POST", "patch": "PATCH", "delete": "DELETE"}
_LIST_RESTARTS = 3
"""How often a list is read from the beginning after its next page has expired."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """Timeouts of requests, and how long failed ones are retried."""

    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 30.0
    budget_seconds: float = 900.0
    """Time after which the server counts as unavailable; 0 for no retry."""

    first_delay_seconds: float = 1.0
    max_delay_seconds: float = 30.0


# For checks, whose user waits: an error now is better than one after a quarter of an hour.
SINGLE_ATTEMPT = RetryPolicy(read_timeout_seconds=20.0, budget_seconds=0.0)


class Api:
    """Client for the objects of one namespace.

    Args:
        configuration: Address and credentials of the API server.
        namespace: Namespace of all objects.
        pod_namespace: Namespace of the pod that this process runs in; empty outside of pods.
        policy: Timeouts and retries.
        clock: Source of time.
    """

    def __init__(
        self,
        configuration: client.Configuration,
        namespace: str,
        *,
        pod_namespace: str = "",
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.host = str(configuration.host)
        self.namespace = namespace
        self.pod_namespace = pod_namespace
        self.policy = policy or RetryPolicy()
        self.clock = clock or Clock()
        self._configuration = configuration
        self._client = client.ApiClient(configuration)

    def get(self, resource: Resource, name: str, *, retry: bool = True) -> Json:
        """Read an object.

        Args:
            resource: Its kind.
            name: Its name.
            retry: Whether to retry while the server does not answer.

        Raises:
            NotFoundError: If it does not exist.
            UnknownResourceError: If the cluster does not have the kind.
            ClusterUnavailableError: If the API server does not answer.
            ClusterError: If the API server refuses the request.
        """
        return self._send_json(self._request("get", resource, name), retry=retry)

    def list(self, resource: Resource, *, retry: bool = True, **query: str) -> "list[Json]":
        """Read all objects that match a query. Raises like `get`.

        Args:
            resource: Their kind.
            retry: Whether to retry while the server does not answer.
            query: Parameters of the request, for instance `labelSelector`.
        """
        request = self._request("list", resource)
        items: list[Json] = []
        restarts = 0
        while True:
            try:
                page = self._send_json(request, query=query, retry=retry)
            except ExpiredListError as error:
                restarts += 1
                if restarts > _LIST_RESTARTS:
                    raise ClusterUnavailableError(
                        f"the API server {self.host} cannot complete the list of {resource}: "
                        f"{error}",
                        repair="try again; a running job continues meanwhile",
                    ) from error
                items.clear()
                del query["continue"]
                continue
            # Go encodes an empty list as null, for which a default of `get` is not used.
            items += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token or "limit" in query:
                return items
            query["continue"] = token

    def read(self, path: str) -> Json:
        """Read a path of the server itself, such as `/version`. Raises like `get`."""
        return self._send_json(Request("get", path))

    def create(self, resource: Resource, body: Json, *, dry_run: bool = False) -> Json:
        """Create an object; with `dry_run` only validate and admit it. Raises like `get`.

        A lost answer is retried too, so an object that this call has created may be reported.

        Raises:
            AlreadyExistsError: If an object has the name.
            RejectedError: If the object is invalid or not admitted.
        """
        query = {"dryRun": "All"} if dry_run else {}
        return self._send_json(self._request("create", resource), query=query, body=body)

    def patch(self, resource: Resource, name: str, change: Json) -> Json:
        """Apply a merge patch to an object. Raises like `get`."""
        return self._send_json(self._request("patch", resource, name), body=change)

    def delete(self, resource: Resource, name: str, *, uid: str = "", retry: bool = True) -> bool:
        """Delete an object in the foreground: it exists until its dependents are gone.

        Args:
            resource: Its kind.
            name: Its name.
            uid: Only delete the object with this uid; empty for any.
            retry: Whether to retry while the server does not answer.

        Returns:
            Whether it existed.
        """
        options: Json = {"propagationPolicy": "Foreground"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self._send_json(self._request("delete", resource, name), body=options, retry=retry)
        except (NotFoundError, AlreadyExistsError):
            return False
        return True

    def log(self, pod: str, *, retry: bool = False, **query: str) -> bytes:
        """Read a pod's log. Raises like `get`, also if the container has not started.

        Args:
            pod: Its name.
            retry: Whether to retry while the server does not answer.
            query: Parameters of the request, for instance `sinceTime`.
        """
        request = self._request("get", PODS, pod, subresource="/log")
        return self._retry(lambda: self._send(request, query, None), retry=retry)

    def with_timeout(self, seconds: float) -> "Api":
        """Return a client with connections of its own and timeouts of at most `seconds`."""
        policy = replace(
            self.policy,
            connect_timeout_seconds=min(self.policy.connect_timeout_seconds, seconds),
            read_timeout_seconds=min(self.policy.read_timeout_seconds, seconds),
        )
        # Not the same ApiClient: a signal handler that uses this client may have interrupted a
        # request, whose connection cannot take another.
        return Api(self._configuration, self.namespace, policy=policy, clock=self.clock)

    def close(self) -> None:
        """Close all connections."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def _request(
        self, verb: str, resource: Resource, name: str = "", *, subresource: str = ""
    ) -> Request:
        path = resource.path(self.namespace, name) + subresource
        return Request(verb, path, resource, name, self.namespace)

    def _send_json(
        self,
        request: Request,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        retry: bool = True,
    ) -> Json:
        def attempt() -> Json:
            try:
                content = json.loads(self._send(request, query or {}, body))
            # A proxy may answer with a page, or the answer may be cut short; a retry can help in
            # both cases.
            except ValueError:
                content = None
            if not isinstance(content, dict):
                raise TransientError("the answer is not a whole JSON object")
            return content

        return self._retry(attempt, retry=retry)

    def _retry(self, attempt: Callable[[], T], *, retry: bool) -> T:
        policy, start = self.policy, self.clock.monotonic()
        delay = policy.first_delay_seconds
        while True:
            try:
                return attempt()
            except TransientError as problem:
                pause = max(delay, problem.retry_after_seconds)
                waited = self.clock.monotonic() - start
                if not retry or waited + pause > policy.budget_seconds:
                    duration = f" for {waited:.0f} s" if waited >= 1 else ""
                    raise ClusterUnavailableError(
                        f"the API server {self.host} did not answer{duration}: {problem}",
                        repair="check the network, proxies and KUBECONFIG, then try again; a "
                        "running job continues meanwhile",
                    ) from problem
                API_RETRIES.inc()
                logger.info("API server: %s; retrying in %.0f s", problem, pause)
            self.clock.sleep(pause)
            delay = min(2 * delay, policy.max_delay_seconds)

    def _send(self, request: Request, query: Mapping[str, str], body: Json | None) -> bytes:
        # The client's generated methods lack a log's `sinceTime` and merge patches of custom
        # objects, and cannot tell a truncated answer from a complete one.
        merge = "merge-patch+" if request.verb == "patch" else ""
        policy = self.policy
        try:
            response, *_ = self._client.call_api(
                request.path,
                _METHODS[request.verb],
                query_params=list(query.items()),
                header_params={
                    "Accept": "application/json, */*",
                    "Content-Type": f"application/{merge}json",
                },
                body=body,
                auth_settings=["BearerToken"],
                # The generated code would decode the content, and hide that it is truncated.
                _preload_content=False,
                _request_timeout=(policy.connect_timeout_seconds, policy.read_timeout_seconds),
            )
            content: bytes = response.read()
        except client.ApiException as error:
            # The token of a page expires with the version of the objects that it belongs to.
            if error.status == HTTPStatus.GONE and "continue" in query:
                raise ExpiredListError(str(error.reason)) from error
            raise error_of(error, request, self.host) from error
        except (urllib3.exceptions.HTTPError, OSError, UnicodeDecodeError) as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        return content
