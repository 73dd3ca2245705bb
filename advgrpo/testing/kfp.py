"""A fake Kubeflow Pipelines API server: real HTTP on loopback, in memory, with faults."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from advgrpo.testing.kfp_api import KfpApi
from advgrpo.testing.kfp_requests import KfpRequest, error_body

_API = "/apis/v2beta1"


class StubKfp(KfpApi):
    """A Kubeflow Pipelines server while the context is open; it records every request."""

    def __enter__(self) -> Self:
        # http.server creates a handler per request, without arguments.
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ClassVar[KfpApi]

    def handle_any(self) -> None:
        request = self._request()
        fault = self.api.next_fault(request)
        if fault == "drop":
            self.close_connection = True
            return
        if isinstance(fault, int):
            self.api.requests.append(request)
            self._send(fault, error_body(fault, "a planned fault"))
            return
        if fault == "slow":
            time.sleep(self.api.slow_seconds)
        status, answer = self.api.answer(request)
        if fault == "lose_answer":
            self.close_connection = True
        elif fault == "page":
            self._send_bytes(200, "text/html", b"<html>Log in to Kubeflow</html>")
        elif isinstance(answer, bytes):
            self._send_bytes(status, "text/plain", answer)
        else:
            self._send(status, answer)

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _request(self) -> KfpRequest:
        url = urlsplit(self.path)
        return KfpRequest(
            method=self.command,
            path=unquote(url.path).removeprefix(_API),
            query={name: values[-1] for name, values in parse_qs(url.query).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
        )

    def _send(self, status: int, answer: object) -> None:
        self._send_bytes(status, "application/json", json.dumps(answer).encode())

    def _send_bytes(self, status: int, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
