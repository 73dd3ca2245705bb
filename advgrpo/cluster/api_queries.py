"""Small questions to an API server, each asked once: to look at a cluster, not to run jobs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3.exceptions
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from advgrpo.cluster.api_connection import UNUSABLE_FILE
from advgrpo.errors import ClusterError, ClusterUnavailableError

Json = dict[str, Any]

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT_SECONDS = (5, 20)
_REVIEWS = "/apis/authorization.k8s.io/v1"


class AbsentError(ClusterError):
    """There is no such object or kind."""


class Questions:
    """Asks about one namespace.

    Args:
        namespace: Where to look; empty for the pod's own, or that of the kubeconfig's context.

    Raises:
        ClusterUnavailableError: If no way to the API server is known.
    """

    def __init__(self, namespace: str = "") -> None:
        self.in_pod = _SERVICE_ACCOUNT.is_dir()
        settings = client.Configuration()
        # Its own repetitions would make a dead server take minutes.
        settings.retries = 1
        try:
            if self.in_pod:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(client_configuration=settings)
            self.own_namespace = _own_namespace(self.in_pod)
        except UNUSABLE_FILE as error:
            raise ClusterUnavailableError(
                f"no way to Kubernetes is known: {error}",
                repair="set KUBECONFIG to a file that kubectl can use, or run in a pod whose "
                "service account's token is mounted",
            ) from error
        self.namespace = namespace or self.own_namespace
        self.address = str(settings.host)
        self._api = client.ApiClient(settings)

    def get(self, path: str, **query: str) -> Json:
        """Read an object, a list or what the server says of itself.

        Raises:
            AbsentError: If there is none.
            ClusterUnavailableError: If the server does not answer.
            ClusterError: If it refuses.
        """
        return self._ask("GET", path, query, None)

    def named(self, resource: str, name: str = "") -> Json:
        """Read an object of the core group in the namespace, or all of a kind; likewise."""
        path = f"/api/v1/namespaces/{self.namespace}/{resource}"
        return self.get(f"{path}/{name}" if name else path)

    def may(self, asked: Mapping[str, str], *, service_account: str) -> bool:
        """Ask whether something is allowed in the namespace.

        Args:
            asked: `verb`, `group`, `resource` and `subresource`.
            service_account: Of whom it is asked; empty for who asks.

        Raises:
            ClusterError: As `get` does.
        """
        spec: Json = {"resourceAttributes": {**asked, "namespace": self.namespace}}
        kind, path, meta = "SelfSubjectAccessReview", _REVIEWS, {}
        if service_account:
            kind, path = "LocalSubjectAccessReview", f"{_REVIEWS}/namespaces/{self.namespace}"
            meta = {"namespace": self.namespace}
            spec["user"] = f"system:serviceaccount:{self.namespace}:{service_account}"
            spec["groups"] = [
                "system:serviceaccounts",
                f"system:serviceaccounts:{self.namespace}",
                "system:authenticated",
            ]
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": kind,
            "metadata": meta,
            "spec": spec,
        }
        answer = self._ask("POST", f"{path}/{kind.lower()}s", {}, body)
        return bool(answer["status"].get("allowed", False))

    def close(self) -> None:
        """Close all connections."""
        self._api.rest_client.pool_manager.clear()
        self._api.close()

    def _ask(self, method: str, path: str, query: Mapping[str, str], body: Json | None) -> Json:
        try:
            answer, _, _ = self._api.call_api(
                path,
                method,
                query_params=[(key, value) for key, value in query.items() if value],
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _request_timeout=_TIMEOUT_SECONDS,
            )
        except urllib3.exceptions.HTTPError as error:
            raise ClusterUnavailableError(
                f"the API server {self.address} does not answer: {error}",
                repair="check KUBECONFIG and the network (NetworkPolicies), then try again",
            ) from error
        except ApiException as error:
            raise _refusal(error, self.address) from error
        if not isinstance(answer, dict):
            raise ClusterUnavailableError(
                f"{self.address} answers, but not as an API server does",
                repair="check the server that KUBECONFIG names, and proxies on the way to it",
            )
        return answer


def _refusal(error: ApiException, address: str) -> ClusterError:
    status = int(error.status)
    message = f"{status}: {_message(error)}"
    if status == 404:
        return AbsentError(message)
    if status == 401:
        return ClusterError(
            f"the API server {address} does not accept who asks", repair="log in again"
        )
    if status in {0, 429} or status >= 500:
        return ClusterUnavailableError(f"the API server answers {message}", repair="try again")
    return ClusterError(message)


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        return str(error.reason)


def _own_namespace(in_pod: bool) -> str:
    if in_pod:
        return (_SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    _, active = config.list_kube_config_contexts()
    return str(active["context"].get("namespace", "default"))
