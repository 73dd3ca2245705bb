"""A local stand-in for a hub: commits of repositories, files of datasets, and uploads."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "b" * 40
_FILES = f"/resolve/{COMMIT}/"


@dataclass
class Hub:
    """What a hub was asked for, what it serves and what it received."""

    missing: str
    url: str = ""
    asked: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    created: list[dict[str, object]] = field(default_factory=list)


@contextmanager
def local_hub(missing: str = "") -> Iterator[Hub]:
    """Serve a hub with any repository but one.

    It takes every file within the commit. A real hub has large files uploaded elsewhere first.
    """
    hub = Hub(missing)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        if _FILES in name:
            content = self.hub.files.get(name.partition(_FILES)[2])
            self._send(content, "EntryNotFound")
            return
        # The library asks for more than models.
        if self.path.startswith("/api/models/"):
            self.hub.asked.append(name)
        found = None if name == self.hub.missing else {"id": name, "sha": COMMIT}
        self._send(json.dumps(found).encode() if found else None, "RepoNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer: dict[str, object] = {"warnings": [], "errors": []}
        if self.path == "/api/repos/create":
            self.hub.created.append(json.loads(body))
            answer = {"url": f"{self.hub.url}/owner/name"}
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": path, **mode} for path in paths]}
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.hub.files |= {file["path"]: base64.b64decode(file["content"]) for file in files}
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            answer = {"commitUrl": f"{self.hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
        self._send(json.dumps(answer).encode())

    def _send(self, content: bytes | None, error: str = "") -> None:
        self.send_response(200 if content is not None else 404)
        if content is None:
            self.send_header("X-Error-Code", error)
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None:
        pass
