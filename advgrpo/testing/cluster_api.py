"""State of the fake API server, and its answers before they become HTTP."""

import json
import threading
import time
from collections.abc import Callable

from advgrpo.cluster.resources import WORKFLOWS, Resource
from advgrpo.testing.cluster_faults import Call, Faults
from advgrpo.testing.cluster_objects import Json, ObjectStore, RefusedError, Target, merge, page
from advgrpo.testing.training_jobs import FakeJob
from advgrpo.testing.training_operator import TrainingOperator

_REVIEWS = {"selfsubjectaccessreviews", "localsubjectaccessreviews"}
_QUEUES = Resource("kueue.x-k8s.io", "v1beta1", "localqueues")


class ClusterApi:
    """Objects, permissions, training operator and planned faults of a cluster.

    Args:
        clock: Returns seconds since 1970.
        namespaces: Namespaces that exist.
        job_type: The kind of jobs that the operator reconciles.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        namespaces: tuple[str, ...] = ("default",),
        job_type: type[FakeJob] = FakeJob,
    ) -> None:
        self.clock = clock
        self.namespaces = set(namespaces)
        self.store = ObjectStore(clock)
        self.operator = TrainingOperator(self.store, job_type)
        self.faults = Faults()
        self.calls: list[Call] = []
        """Every request so far."""

        self.denied: set[tuple[str, str]] = set()
        """Verb and resource (`pods/log`) of forbidden requests."""

        self.missing_resources: set[str] = set()
        """Resources whose CustomResourceDefinition is not installed, for instance `pytorchjobs`."""

        self.kinds: set[Resource] = set()
        """Kinds of custom resources that the API server lists."""

        self.queued = True
        """Whether Kueue manages the kind of jobs, and suspends those of dry runs."""

        self.documents: dict[str, Json] = {}
        """Further documents of the API server by their paths, such as schemas."""

        self._add_kinds()
        self.most_items = 0
        """Objects per page of a list without a limit, as some servers answer; 0 for all."""

        self.admission: Callable[[Json], str] = lambda _: ""
        """Returns why a pod that a client creates is not admitted; empty for an admitted one."""

        self.lock = threading.RLock()

    def create(self, resource: str, body: Json, *, group: str = "", namespace: str = "") -> Json:
        """Create an object as another client would, in namespace `default` unless named."""
        meta = body.setdefault("metadata", {})
        namespace = namespace or meta.get("namespace", "default")
        with self.lock:
            return self.store.create(Target(group, "v1", resource, namespace), body)

    def clear(self) -> None:
        """Remove all objects, faults, plans and recorded calls."""
        self.store.clear()
        self.store.deletion_seconds = 0
        self.operator.clear()
        self.faults.clear()
        self.calls.clear()
        self.denied.clear()
        self.missing_resources.clear()
        self.documents.clear()
        self.queued = True
        self._add_kinds()
        self.most_items = 0
        self.admission = lambda _: ""

    def _knows(self, target: Target) -> bool:
        known = {(one.group, one.plural) for one in self.kinds}
        builtin = target.group in {"", "authorization.k8s.io"}
        found = builtin or (target.group, target.resource) in known
        return found and target.resource not in self.missing_resources

    def _add_kinds(self) -> None:
        job_type = self.operator.job_type
        self.kinds = {WORKFLOWS, _QUEUES, job_type.resource, *job_type.further}

    def answer(
        self,
        call: Call,
        target: Target | None,
        parameters: dict[str, str],
        body: Json,
        *,
        path: str,
        content_type: str,
    ) -> tuple[int, str, bytes]:
        """Carry out a request.

        Returns:
            HTTP status, content type and content of the answer.
        """
        if target is None and (discovered := self._discover(path)):
            return 200, "application/json", json.dumps(discovered).encode()
        if target is None or not self._knows(target):
            return 404, "text/plain", b"404 page not found\n"
        try:
            if (call.verb, call.resource) in self.denied:
                raise RefusedError(403, "Forbidden", _forbidden(call))
            if call.resource == "pods/log":
                text = self.operator.log(target.namespace, target.name, parameters)
                return 200, "text/plain", text.encode()
            # Custom resources have no schema for strategic merges.
            if call.verb == "patch" and target.group and "/merge-patch" not in content_type:
                raise RefusedError(415, "UnsupportedMediaType", content_type)
            result = self._carry_out(call.verb, target, parameters, body)
        except RefusedError as error:
            return error.code, "application/json", json.dumps(error.body).encode()
        code = 201 if call.verb == "create" else 200
        return code, "application/json", json.dumps(result).encode()

    def _discover(self, path: str) -> Json | None:
        if path == "/version":
            return {"gitVersion": "v1.33.0"}
        if path in self.documents:
            return self.documents[path]
        known = [one for one in self.kinds if one.plural not in self.missing_resources]
        if found := [one for one in known if one.api == path]:
            return {"resources": [{"name": one.plural} for one in found]}
        for one in known:
            if path == f"/apis/{one.group}":
                return {"preferredVersion": {"version": one.version}}
        return None

    def _carry_out(self, verb: str, target: Target, parameters: dict[str, str], body: Json) -> Json:
        # Access reviews are created but not stored.
        if target.resource in _REVIEWS:
            attributes = body["spec"].get("resourceAttributes", {})
            parts = (attributes["resource"], attributes.get("subresource"))
            resource = "/".join(filter(None, parts))
            return body | {"status": {"allowed": (attributes["verb"], resource) not in self.denied}}
        if target.namespace and target.namespace not in self.namespaces and verb == "create":
            raise RefusedError(404, "NotFound", f'namespaces "{target.namespace}" not found')
        if verb == "list":
            objects = self.store.all(target.group, target.resource, target.namespace)
            most = {"limit": str(self.most_items)} if self.most_items else {}
            return page(objects, target, most | parameters)
        if verb == "create" and target.resource == "pods" and (reason := self.admission(body)):
            name = body.get("metadata", {}).get("name", "")
            raise RefusedError(403, "Forbidden", f'pods "{name}" is forbidden: {reason}')
        if verb == "create" and parameters.get("dryRun") == "All":
            managed = self.queued and target.resource == self.operator.job_type.resource.plural
            return dict(merge(body, self.operator.job_type.suspended)) if managed else body  # type: ignore[call-overload]
        if verb == "create":
            created = self.store.create(target, body)
            self.operator.on_create(target, created)
            return created
        if verb == "delete":
            return self.store.delete(target, body)
        return self.store.patch(target, body) if verb == "patch" else self.store.get(target)


def _forbidden(call: Call) -> str:
    resource = f"{call.resource}.{call.group}".rstrip(".")
    return (
        f'{resource} "{call.name}" is forbidden: User "system:serviceaccount:default:test" cannot '
        f'{call.verb} resource "{call.resource}" in API group "{call.group}" in the namespace '
        f'"{call.namespace}"'
    )
