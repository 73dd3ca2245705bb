"""HTTP front end of the fake API server, including the faults on the wire."""

import json
import socket
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from advgrpo.testing.cluster_api import ClusterApi
from advgrpo.testing.cluster_faults import Call, Fault
from advgrpo.testing.cluster_objects import RefusedError, Target

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ClusterServer(ThreadingHTTPServer):
    """HTTP on a free port of loopback, in threads."""

    daemon_threads = True
    # A handler of a silent request would block `close`.
    block_on_close = False

    def __init__(self, cluster: ClusterApi) -> None:
        self.cluster = cluster
        self.errors: list[BaseException] = []
        """Exceptions of the handlers, which are mistakes in the fake itself."""

        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def drop_connections(self) -> None:
        """Close every open connection, so that no handler keeps waiting."""
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                # The client closed it first.
                self.connections.discard(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        """Keep unexpected exceptions; connections are broken on purpose."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Small answers would wait 40 ms for delayed ACKs.
    disable_nagle_algorithm = True
    server: ClusterServer

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
            # Time passes only with requests: first bring the state up to date.
            cluster.store.collect()
            cluster.operator.advance()
            fault = cluster.faults.next_for(call)
            if fault is None or fault.kind not in {"status", "reset_before", "silence"}:
                status, content_type, content = cluster.answer(
                    call,
                    target,
                    parameters,
                    body,
                    path=url.path,
                    content_type=self.headers.get("Content-Type", ""),
                )
        if fault is not None and self._fails(fault):
            return
        if fault is not None and fault.kind in {"cut", "cut_quietly"}:
            self._send_half(status, content_type, content, quietly=fault.kind == "cut_quietly")
            return
        if status == 200 and target is not None and _is_true(parameters, "follow"):
            self._follow(target, parameters)
        else:
            self._send(status, content_type, content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def _fails(self, fault: Fault) -> bool:
        """Carry out a fault; False if the answer is still to be sent."""
        if fault.kind == "status":
            seconds = fault.retry_after_seconds
            after = {} if seconds is None else {"Retry-After": str(seconds)}
            error = RefusedError(fault.status, "Fault", f"fault {fault.status}")
            self._send(fault.status, "application/json", json.dumps(error.body).encode(), after)
        elif fault.kind in {"reset_before", "reset_after"}:
            self._break()
        elif fault.kind in {"silence", "silence_after"}:
            self.close_connection = True
            self.connection.recv(1)  # returns once the client or the server closes
        elif fault.kind == "slow":
            time.sleep(fault.seconds)
        return fault.kind not in {"slow", "cut", "cut_quietly"}

    def _break(self) -> None:
        # With a linger time of 0, close() sends RST rather than FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send(
        self, status: int, content_type: str, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _send_half(self, status: int, content_type: str, content: bytes, *, quietly: bool) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        if quietly:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def _follow(self, target: Target, parameters: dict[str, str]) -> None:
        """Stream a log as it grows, until its pod ends or is removed."""
        operator = self.server.cluster.operator
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        sent = 0
        while True:
            with self.server.cluster.lock:
                operator.advance()
                running = operator.is_running(target.namespace, target.name)
                try:
                    text = operator.log(target.namespace, target.name, parameters)
                except RefusedError:
                    return
            self.wfile.write(text[sent:].encode())
            sent = len(text)
            if not running:
                return
            time.sleep(0.02)


def _target(path: str) -> Target | None:
    """Parse `/api/v1/...` or `/apis/GROUP/VERSION/...`; None for other paths."""
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


def _is_true(parameters: dict[str, str], name: str) -> bool:
    return parameters.get(name, "").lower() == "true"
