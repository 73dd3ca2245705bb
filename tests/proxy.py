"""A proxy that makes a real server fail."""

import http.client
import socket
import ssl
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Literal, get_args

Mode = Literal[
    "pass",
    "refuse_all",
    "refuse_first",
    "slow",
    "lose_answers",
    "slow_down",
    "corrupt_request",
    "cut_request",
    "corrupt_answer",
    "truncate_answer",
    "reset_answer",
    "trickle_answer",
    "nonsense",
]
MODES = get_args(Mode)

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class Proxy:
    """A proxy of a server on loopback that fails on demand.

    `mode` selects how: `pass` does not fail, `refuse_all` answers every request that contains
    `only` with `status`, `refuse_first` only the first, `slow` answers after `delay_seconds`,
    `lose_answers` lets the server do its work and then breaks the connection, `slow_down` answers
    as S3 does when it is busy, `corrupt_...` changes a byte, `cut_request` reads half of a request
    and resets the connection, `truncate_answer` sends half of an answer and closes it,
    `reset_answer` resets it, `trickle_answer` sends a byte every `delay_seconds`, `nonsense`
    answers with random bytes.

    `next` has modes for the next requests, one each; after them `mode` applies.
    """

    def __init__(self, target: str, *, seed: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.mode: Mode = "pass"
        self.next: deque[Mode] = deque()
        self.only = ""
        self.status = 503
        self.delay_seconds = 5.0
        self.requests = 0
        self.random = Random(seed)
        self._scheme = "https" if tls else "http"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, target))
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def corrupt(self, content: bytes) -> bytes:
        """Return the content with one byte changed."""
        if not content:
            return content
        place = self.random.randrange(len(content))
        changed = content[place] ^ self.random.randrange(1, 256)
        return content[:place] + bytes([changed]) + content[place + 1 :]


def _handler(proxy: Proxy, target: str) -> type[BaseHTTPRequestHandler]:  # noqa: C901
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            # The client may have disconnected.
            with suppress(ConnectionError):
                self._handle()

        def _handle(self) -> None:
            proxy.requests += 1
            mode = proxy.next.popleft() if proxy.next else proxy.mode
            length = int(self.headers.get("Content-Length") or 0)
            if mode == "cut_request":
                self.rfile.read(length // 2)
                self._reset()
                return
            body = self.rfile.read(length)
            if not self._refuse(mode, body):
                self._forward(mode, body)

        def _refuse(self, mode: Mode, body: bytes) -> bool:
            concerned = proxy.only in f"{self.command} {self.path} {body!r}"
            if (mode == "refuse_all" and concerned) or (
                mode == "refuse_first" and proxy.requests == 1
            ):
                self._send(proxy.status, {}, b"")
            elif mode == "slow_down":
                self._send(503, {"Content-Type": "application/xml"}, _SLOW_DOWN)
            elif mode == "nonsense":
                self.wfile.write(proxy.random.randbytes(200))
                self.close_connection = True
            else:
                return False
            return True

        def _forward(self, mode: Mode, body: bytes) -> None:
            if mode == "slow":
                time.sleep(proxy.delay_seconds)
            request = proxy.corrupt(body) if mode == "corrupt_request" else body
            status, headers, content = self._send_upstream(request)
            if mode == "lose_answers":
                self.close_connection = True
                return
            answer = proxy.corrupt(content) if mode == "corrupt_answer" else content
            self._send(status, headers, answer, mode)

        def _send_upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            server = http.client.HTTPConnection(target.removeprefix("http://"), timeout=60)
            server.request(self.command, self.path, body, dict(self.headers))
            answer = server.getresponse()
            content = answer.read()
            server.close()
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in {"transfer-encoding", "connection"}
            }
            if self.command != "HEAD":
                headers["Content-Length"] = str(len(content))
            return answer.status, headers, content

        def _send(
            self, status: int, headers: dict[str, str], content: bytes, mode: Mode = "pass"
        ) -> None:
            self.send_response(status)
            headers.setdefault("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                content = b""
            if mode == "trickle_answer":
                for start in range(len(content)):
                    self.wfile.write(content[start : start + 1])
                    time.sleep(proxy.delay_seconds)
            elif mode in {"truncate_answer", "reset_answer"}:
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                if mode == "reset_answer":
                    self._reset()
            else:
                self.wfile.write(content)

        def _reset(self) -> None:
            self.close_connection = True
            # Closing a socket that does not linger resets the connection.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler
