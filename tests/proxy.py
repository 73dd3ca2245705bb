"""A proxy that makes a real server fail."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Mode = Literal["pass", "refuse_all", "refuse_first", "slow", "lose_answers"]


class Proxy:
    """Stands before a server on loopback and fails on demand.

    `mode` says how: `pass` does not fail, `refuse_all` answers every request with `status`,
    `refuse_first` only the first, `slow` answers after `delay_seconds`, `lose_answers` lets the
    server do its work and then breaks the connection.
    """

    def __init__(self, target: str) -> None:
        self.mode: Mode = "pass"
        self.status = 503
        self.delay_seconds = 5.0
        self.requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, target))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(proxy: Proxy, target: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            proxy.requests += 1
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            first = proxy.requests == 1
            if proxy.mode == "refuse_all" or (proxy.mode == "refuse_first" and first):
                self.send_response(proxy.status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if proxy.mode == "slow":
                time.sleep(proxy.delay_seconds)
            server = http.client.HTTPConnection(target.removeprefix("http://"), timeout=60)
            server.request(self.command, self.path, body, dict(self.headers))
            answer = server.getresponse()
            content = answer.read()
            server.close()
            if proxy.mode == "lose_answers":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler
