"""Requests to Kubernetes' API server: each with a time limit, repeated while that may help."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import urllib3
from kubernetes import client

from advgrpo.cluster.api_errors import (
    AlreadyExistsError,
    Asked,
    NotFoundError,
    TransientError,
    refusal,
)
from advgrpo.cluster.clock import Clock
from advgrpo.cluster.resources import PODS, Resource
from advgrpo.errors import ClusterUnavailableError
from advgrpo.telemetry.prometheus import API_RETRIES

Json = dict[str, Any]
T = TypeVar("T")

_METHODS = {
    "get": "GET",
    "list": "GET",
    "create": "POST",
    "patch": "PATCH",
    "delete": "DELETE",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long to wait for the API server."""

    connect_seconds: float = 5.0
    read_seconds: float = 30.0
    budget_seconds: float = 900.0
    """How long a request is repeated before the server counts as unavailable."""

    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 30.0


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
            NotFoundError: If there is none of that name.
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
            AlreadyExistsError: If an object has the name.
            ClusterUnavailableError: If the API server does not answer for too long.
            ClusterError: If it refuses.
        """
        return self._json("create", resource, body=body)

    def patch(self, resource: Resource, name: str, change: Json) -> Json:
        """Apply a merge patch to an object.

        Raises:
            NotFoundError: If there is none of that name.
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
        except (NotFoundError, AlreadyExistsError):
            return False
        return True

    def log(self, pod: str, *, patient: bool = False, **query: str) -> bytes:
        """Read a pod's log.

        Args:
            pod: Its name.
            patient: Whether to ask again if asking fails; else that is an error at once.
            query: Parameters of the request, for instance `sinceTime`.

        Raises:
            NotFoundError: If there is no such pod.
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
                raise TransientError("an answer was cut off") from error
            return found

        return self._repeated(ask, patient=patient)

    def _repeated(self, ask: Callable[[], T], *, patient: bool) -> T:
        """Ask until there is an answer, with longer and longer waits."""
        patience, start = self.patience, self.clock.monotonic()
        wait = patience.first_wait_seconds
        while True:
            try:
                return ask()
            except TransientError as problem:
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
            asked = Asked(verb, resource, name, self.namespace, self._configuration.host)
            raise refusal(error, asked) from error
        except (urllib3.exceptions.HTTPError, OSError, UnicodeDecodeError) as error:
            raise TransientError(f"{type(error).__name__}: {error}") from error
        return content
