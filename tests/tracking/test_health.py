import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import TrackingError
from advgrpo.tracking.health import check_server
from tests.proxy import Proxy


def test_the_version_of_a_server_is_returned(stores: EmbeddedServers) -> None:
    assert check_server(stores.tracking_uri).startswith("3.")


def test_a_host_name_that_the_server_refuses_has_a_repair(
    stores: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *more: real("127.0.0.1", *more))
    monkeypatch.setenv("NO_PROXY", "*")
    port = stores.tracking_uri.rpartition(":")[2]
    with pytest.raises(TrackingError, match="Invalid Host header") as caught:
        check_server(f"http://mlflow.ml.svc.cluster.local:{port}")
    assert "--allowed-hosts" in caught.value.repair


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_names_the_variables(
    stores: EmbeddedServers, proxy: Callable[[str], Proxy], status: int
) -> None:
    before = proxy(stores.tracking_uri)
    before.mode, before.status = "refuse_all", status
    with pytest.raises(TrackingError) as caught:
        check_server(before.url)
    assert "MLFLOW_TRACKING_USERNAME" in caught.value.repair


@pytest.mark.parametrize(
    ("version", "message"), [("2.22.0", "has version 2.22.0"), ("<html>", "does not report")]
)
def test_an_old_server_or_one_of_another_kind_is_refused(
    version: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = version.encode() if self.path == "/version" else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with pytest.raises(TrackingError, match=message):
                check_server(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
