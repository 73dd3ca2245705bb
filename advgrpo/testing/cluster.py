"""A pretended Kubernetes API server: real HTTP on loopback, for the real client."""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from advgrpo.testing.cluster_faults import Call, Fault, Faults
from advgrpo.testing.cluster_objects import Json, ObjectStore, RefusedError, Target, page
from advgrpo.testing.training_operator import TrainingOperator

_REVIEWS = {"selfsubjectaccessreviews", "localsubjectaccessreviews"}
_KINDS = {
    "kubeflow.org/v1": "pytorchjobs",
    "argoproj.io/v1alpha1": "workflows",
    "kueue.x-k8s.io/v1beta1": "localqueues",
}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class FakeCluster:
    """An API server with objects, a training operator, and faults on demand.

    It keeps objects of any group, version and resource, answers reviews of what one may do, and
    serves the logs of pods. What the operator does to jobs is its `plans`; what goes wrong between
    client and server is `faults`. With a clock that only the test moves, all is determined by them.

    Args:
        clock: Gives seconds since 1970.
        namespaces: Those that exist.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        namespaces: tuple[str, ...] = ("default",),
    ) -> None:
        self.clock = clock
        self.namespaces = set(namespaces)
        self.store = ObjectStore(clock)
        self.operator = TrainingOperator(self.store)
        self.faults = Faults()
        self.calls: list[Call] = []
        """Every request so far."""

        self.denied: set[tuple[str, str]] = set()
        """Verb and resource (`pods/log`) of what is forbidden."""

        self.missing_resources: set[str] = set()
        """Resources whose CustomResourceDefinition is not installed, for instance `pytorchjobs`."""

        self.lock = threading.RLock()
        self.own_faults: list[BaseException] = []
        """What went wrong in here by mistake; `close` raises the first."""

        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def kubeconfig(self, path: Path, *, namespace: str = "default") -> Path:
        """Write a kubeconfig file that leads to it."""
        context = {"cluster": "fake", "user": "fake", "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": context}],
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def create(self, resource: str, body: Json, *, group: str = "", namespace: str = "") -> Json:
        """Put an object there, as somebody else would; its namespace is `default` if not said."""
        meta = body.setdefault("metadata", {})
        where = namespace or meta.get("namespace", "default")
        with self.lock:
            return self.store.create(Target(group, "v1", resource, where), body)

    def reset(self) -> None:
        """Forget all objects, faults, plans and calls."""
        with self.lock:
            self._server.drop_connections()
            self.store.clear()
            self.store.deletion_seconds = 0
            self.operator.clear()
            self.faults.clear()
            self.calls.clear()
            self.denied.clear()
            self.missing_resources.clear()

    def close(self) -> None:
        """Stop, and break all connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()
        if self.own_faults:
            raise self.own_faults[0]

    def discover(self, path: str) -> Json | None:
        """Say which kinds a group and version has, or which version a group prefers."""
        if path == "/version":
            return {"gitVersion": "v1.33.0"}
        for version, plural in _KINDS.items():
            if plural in self.missing_resources:
                continue
            if path == f"/apis/{version}":
                return {"groupVersion": version, "resources": [{"name": plural}]}
            if path == f"/apis/{version.partition('/')[0]}":
                return {"preferredVersion": {"groupVersion": version}}
        return None

    def answer(self, verb: str, target: Target, parameters: dict[str, str], body: Json) -> Json:
        """Carry out a request.

        Raises:
            RefusedError: If it cannot be.
        """
        if target.resource in _REVIEWS:
            asked = body["spec"].get("resourceAttributes", {})
            what = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            return body | {"status": {"allowed": (asked["verb"], what) not in self.denied}}
        if target.namespace and target.namespace not in self.namespaces and verb == "create":
            raise RefusedError(404, "NotFound", f'namespaces "{target.namespace}" not found')
        if verb == "list":
            found = self.store.all(target.group, target.resource, target.namespace)
            return page(found, target, parameters)
        if verb == "create":
            made = self.store.create(target, body)
            self.operator.see_new(target, made)
            return made
        if verb == "delete":
            return self.store.delete(target, body)
        return self.store.patch(target, body) if verb == "patch" else self.store.named(target)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def drop_connections(self) -> None:
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It was closed by the other side.
                self.connections.discard(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Keep what is a mistake; connections are broken on purpose."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.cluster.own_faults.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        cluster = self.server.cluster
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        url = urlsplit(self.path)
        parameters = dict(parse_qsl(url.query))
        with cluster.lock:
            target = _target(url.path)
            call = _call(self.command, target, parameters)
            cluster.calls.append(call)
            cluster.store.collect()
            cluster.operator.advance()
            fault = cluster.faults.next_for(call)
            if fault is None or fault.kind not in {"status", "reset_before", "silence"}:
                status, kind, content = self._carry_out(call, target, parameters, body)
        if fault is not None and self._fails(fault):
            return
        if fault is not None and fault.kind in {"cut", "cut_quietly"}:
            self._send_half(status, kind, content, quietly=fault.kind == "cut_quietly")
            return
        if status == 200 and target is not None and _is_true(parameters, "follow"):
            self._follow(target, parameters)
        else:
            self._send(status, kind, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _carry_out(
        self, call: Call, target: Target | None, parameters: dict[str, str], body: Json
    ) -> tuple[int, str, bytes]:
        cluster = self.server.cluster
        if target is None and (known := cluster.discover(urlsplit(self.path).path)):
            return 200, "application/json", json.dumps(known).encode()
        if target is None or target.resource in cluster.missing_resources:
            return 404, "text/plain", b"404 page not found\n"
        try:
            if (call.verb, call.resource) in cluster.denied:
                raise RefusedError(403, "Forbidden", _forbidden(call))
            if call.resource == "pods/log":
                text = cluster.operator.log(target.namespace, target.name, parameters)
                return 200, "text/plain", text.encode()
            if call.verb == "patch" and target.group and "merge-patch" not in self._patch_kind():
                raise RefusedError(415, "UnsupportedMediaType", self._patch_kind())
            made = cluster.answer(call.verb, target, parameters, body)
        except RefusedError as error:
            return error.code, "application/json", json.dumps(error.body).encode()
        code = 201 if call.verb == "create" else 200
        return code, "application/json", json.dumps(made).encode()

    def _patch_kind(self) -> str:
        kind = self.headers.get("Content-Type", "")
        return "" if "strategic" in kind else kind

    def _fails(self, fault: Fault) -> bool:
        """Do what a fault does instead of an answer; False if an answer follows."""
        if fault.kind == "status":
            seconds = fault.retry_after_seconds
            after = {} if seconds is None else {"Retry-After": str(seconds)}
            error = RefusedError(fault.status, "Fault", f"fault {fault.status}")
            self._send(fault.status, "application/json", json.dumps(error.body).encode(), after)
        elif fault.kind in {"reset_before", "reset_after"}:
            self._break()
        elif fault.kind in {"silence", "silence_after"}:
            self.close_connection = True
            self.connection.recv(1)  # returns when the client gives up, or the server closes
        elif fault.kind == "slow":
            time.sleep(fault.seconds)
        return fault.kind not in {"slow", "cut", "cut_quietly"}

    def _break(self) -> None:
        # With nothing to linger for, closing sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send(
        self, status: int, kind: str, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _send_half(self, status: int, kind: str, content: bytes, *, quietly: bool) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if quietly:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def _follow(self, target: Target, parameters: dict[str, str]) -> None:
        """Send a log as it grows, until its pod ends or goes."""
        operator = self.server.cluster.operator
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        sent = 0
        while True:
            with self.server.cluster.lock:
                operator.advance()
                going_on = operator.is_running(target.namespace, target.name)
                try:
                    text = operator.log(target.namespace, target.name, parameters)
                except RefusedError:
                    return
            self.wfile.write(text[sent:].encode())
            sent = len(text)
            if not going_on:
                return
            time.sleep(0.02)


def _target(path: str) -> Target | None:
    """Read a path: `/api/v1/...` or `/apis/GROUP/VERSION/...`; None for other paths."""
    parts = [part for part in path.split("/") if part]
    if len(parts) > 2 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) > 3 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource, *_ = [*rest, "", ""]
    return Target(group, version, resource, namespace, name, subresource)


def _call(method: str, target: Target | None, parameters: dict[str, str]) -> Call:
    if target is None:
        return Call(method.lower(), "", "")
    verb = _VERBS.get(method, "get" if target.name else "list")
    if verb == "list" and _is_true(parameters, "watch"):
        verb = "watch"
    resource = "/".join(filter(None, (target.resource, target.subresource)))
    return Call(verb, target.group, resource, target.namespace, target.name)


def _forbidden(call: Call) -> str:
    what = f"{call.resource}.{call.group}".rstrip(".")
    return (
        f'{what} "{call.name}" is forbidden: User "system:serviceaccount:default:test" cannot '
        f'{call.verb} resource "{call.resource}" in API group "{call.group}" in the namespace '
        f'"{call.namespace}"'
    )


def _is_true(parameters: dict[str, str], name: str) -> bool:
    return parameters.get(name, "").lower() == "true"
