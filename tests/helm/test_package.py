"""The chart as an archive, and in a registry."""

import hashlib
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from advgrpo import __version__
from helm.package import package, push

STORED: dict[str, bytes] = {}


class _Registry(BaseHTTPRequestHandler):
    """The part of the OCI distribution API by which blobs and manifests are pushed."""

    def do_HEAD(self) -> None:
        body = STORED.get(self.path.rpartition("/")[2])
        self._answer(404 if body is None else 200, body or b"")

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(STORED[self.path.rpartition("/")[2]])

    def do_POST(self) -> None:
        self._answer(202)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        STORED[_digest(body)] = STORED[self.path.rpartition("/")[2]] = body
        self._answer(201, body)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Location", f"{self.path}1")
        self.send_header("Docker-Content-Digest", _digest(body))
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Content-Length", str(len(body) if self.command in {"HEAD", "GET"} else 0))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@pytest.fixture
def registry() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}/team"
        server.shutdown()


def test_the_archive_of_the_chart_is_pushed_as_it_is(tmp_path: Path, registry: str) -> None:
    archive = package(tmp_path)
    assert archive.name == f"advgrpo-{__version__}.tgz"
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
    assert {"advgrpo/values.schema.json", "advgrpo/alerts.yaml", "advgrpo/dashboard.json"} <= names
    assert push(archive, registry, plain_http=True) == f"oci://{registry}/charts/advgrpo"
    assert STORED[_digest(archive.read_bytes())] == archive.read_bytes()
    assert _digest(archive.read_bytes()).encode() in STORED[__version__]
