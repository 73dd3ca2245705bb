"""A Kubeflow Pipelines API server for tests: real HTTP on loopback, kept in memory, with faults.

It answers what `kfp.Client`, the `kfp` command and `advgrpo submit` ask of the API `v2beta1`, and
keeps every request that it got.
"""

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Literal, Self
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

import yaml

_API = "/apis/v2beta1"

KfpFault = Literal["drop", "lose_answer", "page", "slow"] | int
"""How a request fails: the connection breaks before or after the work, a log-in page comes instead,
the answer is late, or the server answers with this status."""


@dataclass(frozen=True)
class KfpRequest:
    """What the server was asked."""

    method: str
    path: str
    """Below `/apis/v2beta1`."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name."""

    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, which is a JSON object."""
        read: dict[str, Any] = json.loads(self.body)
        return read


class _RefusalError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class _Planned:
    method: str
    path: str
    fault: KfpFault
    times: int


@dataclass
class StubKfp:
    """A Kubeflow Pipelines server while the context is open.

    Args:
        token: If not empty, requests must bear it.
        cookie: If not empty, requests must send it.
        namespaces: With any, the server has many users, who must name one of these.
        slow_seconds: How late an answer of the fault `slow` is.
    """

    token: str = ""
    cookie: str = ""
    namespaces: Sequence[str] = ()
    slow_seconds: float = 1.0
    requests: list[KfpRequest] = field(default_factory=list)
    progress: list[dict[str, Any]] = field(default_factory=list)
    """What a run becomes with each look at it, for instance `{"state": "RUNNING"}`; the last one
    stays."""

    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring_runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _faults: list[_Planned] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"stub": self})
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
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, method: str, path: str, fault: KfpFault, *, times: int = 1) -> None:
        """Let the next requests of a method whose path starts so fail."""
        self._faults.append(_Planned(method, path, fault, times))

    def sent(self, method: str, path: str) -> list[KfpRequest]:
        """List the requests of a method whose path matches a regular expression as a whole."""
        return [r for r in self.requests if r.method == method and re.fullmatch(path, r.path)]

    def planned(self, request: KfpRequest) -> KfpFault | None:
        """Take the fault that a request meets, if any."""
        for plan in self._faults:
            fits = request.method == plan.method and request.path.startswith(plan.path)
            if plan.times and fits:
                plan.times -= 1
                return plan.fault
        return None

    def answer(self, request: KfpRequest) -> tuple[int, Any]:
        """Do what is asked; the status and the JSON value to answer with."""
        with self._lock:
            self.requests.append(request)
            try:
                self._check_access(request)
                return 200, self._done(request)
            except _RefusalError as refusal:
                return refusal.status, _error(refusal.status, refusal.message)

    def _check_access(self, request: KfpRequest) -> None:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise _RefusalError(401, "Unauthenticated: the token is not known")
        if self.cookie and request.headers.get("cookie") != self.cookie:
            raise _RefusalError(401, "Unauthenticated: the cookie is not known")

    def _done(self, request: KfpRequest) -> Any:  # noqa: ANN401 - a JSON value
        for (method, pattern), do in _ROUTES.items():
            found = re.fullmatch(pattern, request.path)
            if method == request.method and found:
                return do(self, request, *found.groups())
        raise _RefusalError(404, f"Not Found: {request.method} {request.path}")

    def _new(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"

    def _health(self, _request: KfpRequest) -> dict[str, Any]:
        return {"multi_user": bool(self.namespaces)}

    def _check_namespace(self, namespace: str) -> None:
        if self.namespaces and not namespace:
            raise _RefusalError(
                400, "Invalid input error: a namespace is needed in multi-user mode"
            )
        if self.namespaces and namespace not in self.namespaces:
            raise _RefusalError(403, f"User is not authorized to act in namespace {namespace}")
        if not self.namespaces and namespace:
            raise _RefusalError(
                400, "Invalid input error: In single-user mode, namespace must be empty"
            )

    def _create_experiment(self, request: KfpRequest) -> dict[str, Any]:
        asked = request.json
        self._check_namespace(asked.get("namespace", ""))
        if _named(self.experiments, asked["display_name"]):
            raise _RefusalError(409, f"Already exist error: experiment {asked['display_name']}")
        return _add(self.experiments, "experiment_id", self._new("experiment"), asked)

    def _list_experiments(self, request: KfpRequest) -> dict[str, Any]:
        self._check_namespace(request.query.get("namespace", ""))
        return _listing("experiments", _filtered(self.experiments, request), request)

    def _create_pipeline(self, request: KfpRequest) -> dict[str, Any]:
        return self._add_pipeline(request.json)

    def _add_pipeline(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        if _named(self.pipelines, asked["display_name"]):
            raise _RefusalError(409, f"Already exist error: pipeline {asked['display_name']}")
        return _add(self.pipelines, "pipeline_id", self._new("pipeline"), asked)

    def _upload_pipeline(self, request: KfpRequest) -> dict[str, Any]:
        document = _uploaded(request)
        name = request.query.get("name", "") or document["pipelineInfo"]["name"]
        made = self._add_pipeline({"display_name": name, "name": name})
        self._add_version(made["pipeline_id"], name, document)
        return made

    def _upload_version(self, request: KfpRequest) -> dict[str, Any]:
        pipeline = request.query.get("pipelineid", "")
        if pipeline not in self.pipelines:
            raise _RefusalError(404, f"ResourceNotFoundError: pipeline {pipeline} not found")
        return self._add_version(pipeline, request.query["name"], _uploaded(request))

    def _add_version(self, pipeline: str, name: str, document: Any) -> dict[str, Any]:  # noqa: ANN401
        if _named(self._versions_of(pipeline), name):
            raise _RefusalError(409, f"Already exist error: pipeline version {name}")
        version = {
            "pipeline_id": pipeline,
            "display_name": name,
            "name": name,
            "pipeline_spec": document,
        }
        return _add(self.versions, "pipeline_version_id", self._new("version"), version)

    def _versions_of(self, pipeline: str) -> dict[str, dict[str, Any]]:
        return {k: v for k, v in self.versions.items() if v["pipeline_id"] == pipeline}

    def _list_pipelines(self, request: KfpRequest) -> dict[str, Any]:
        return _listing("pipelines", _filtered(self.pipelines, request), request)

    def _list_versions(self, request: KfpRequest, pipeline: str) -> dict[str, Any]:
        return _listing(
            "pipeline_versions", _filtered(self._versions_of(pipeline), request), request
        )

    def _check_run(self, asked: Mapping[str, Any]) -> None:
        if asked.get("experiment_id") not in self.experiments:
            raise _RefusalError(
                404, f"ResourceNotFoundError: experiment {asked.get('experiment_id')}"
            )
        document = asked.get("pipeline_spec") or {}
        if reference := asked.get("pipeline_version_reference"):
            version = self.versions.get(reference["pipeline_version_id"])
            if version is None:
                raise _RefusalError(404, "ResourceNotFoundError: the pipeline version is not found")
            document = version["pipeline_spec"]
        inputs = document.get("pipeline_spec", document)["root"]["inputDefinitions"]["parameters"]
        given = (asked.get("runtime_config") or {}).get("parameters") or {}
        missing = [
            name
            for name, entry in inputs.items()
            if name not in given and "defaultValue" not in entry and not entry.get("isOptional")
        ]
        if missing:
            raise _RefusalError(400, f"Invalid input error: parameters {missing} are not provided")

    def _create_run(self, request: KfpRequest) -> dict[str, Any]:
        self._check_run(request.json)
        run = {**request.json, "state": "PENDING", "looks": 0}
        return _shown(_add(self.runs, "run_id", self._new("run"), run))

    def _list_runs(self, request: KfpRequest) -> dict[str, Any]:
        if "experiment_id" not in request.query:
            self._check_namespace(request.query.get("namespace", ""))
        return _listing("runs", [_shown(run) for run in _filtered(self.runs, request)], request)

    def _get_run(self, _request: KfpRequest, run_id: str) -> dict[str, Any]:
        run = self._run(run_id)
        if self.progress:
            run.update(self.progress[min(run["looks"], len(self.progress) - 1)])
            run["looks"] += 1
        return _shown(run)

    def _run(self, run_id: str) -> dict[str, Any]:
        if run_id not in self.runs:
            raise _RefusalError(404, f"ResourceNotFoundError: Run {run_id} not found")
        return self.runs[run_id]

    def _create_recurring_run(self, request: KfpRequest) -> dict[str, Any]:
        self._check_run(request.json)
        made = _add(self.recurring_runs, "recurring_run_id", self._new("recurring"), request.json)
        return {**made, "max_concurrency": str(made.get("max_concurrency", ""))}

    def _list_recurring_runs(self, request: KfpRequest) -> dict[str, Any]:
        return _listing("recurringRuns", _filtered(self.recurring_runs, request), request)


_ROUTES: dict[tuple[str, str], Callable[..., Any]] = {
    ("GET", "/healthz"): StubKfp._health,
    ("POST", "/experiments"): StubKfp._create_experiment,
    ("GET", "/experiments"): StubKfp._list_experiments,
    ("POST", "/pipelines"): StubKfp._create_pipeline,
    ("GET", "/pipelines"): StubKfp._list_pipelines,
    ("POST", "/pipelines/upload"): StubKfp._upload_pipeline,
    ("POST", "/pipelines/upload_version"): StubKfp._upload_version,
    ("GET", "/pipelines/([^/]+)/versions"): StubKfp._list_versions,
    ("POST", "/runs"): StubKfp._create_run,
    ("GET", "/runs"): StubKfp._list_runs,
    ("GET", "/runs/([^/]+)"): StubKfp._get_run,
    ("POST", "/recurringruns"): StubKfp._create_recurring_run,
    ("GET", "/recurringruns"): StubKfp._list_recurring_runs,
}


def _add(
    into: dict[str, dict[str, Any]], key: str, value: str, asked: Mapping[str, Any]
) -> dict[str, Any]:
    into[value] = {**asked, key: value, "created_at": "2026-01-01T00:00:00Z"}
    return into[value]


def _shown(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "looks"}


def _named(among: Mapping[str, Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [entry for entry in among.values() if entry.get("display_name") == name]


def _filtered(
    among: Mapping[str, Mapping[str, Any]], request: KfpRequest
) -> list[Mapping[str, Any]]:
    # As the real server does: a plus sign becomes a space.
    asked = json.loads(unquote_plus(request.query.get("filter") or "{}"))
    found = list(among.values())
    for predicate in asked.get("predicates", []):
        wanted = predicate.get("stringValue", predicate.get("string_value"))
        found = [entry for entry in found if entry.get(predicate["key"]) == wanted]
    for key in ("namespace", "experiment_id"):
        if key in request.query:
            found = [entry for entry in found if entry.get(key) == request.query[key]]
    return found


def _listing(
    name: str, entries: Sequence[Mapping[str, Any]], request: KfpRequest
) -> dict[str, Any]:
    """Give a page of a list; as the real server does, without what would be empty."""
    ordered = list(entries)
    if request.query.get("sort_by") == "created_at desc":
        ordered.reverse()
    start = int(request.query.get("page_token") or 0)
    end = start + int(request.query.get("page_size") or 10)
    page = {name: ordered[start:end], "total_size": len(ordered)} if ordered else {}
    return {**page, "next_page_token": str(end)} if end < len(ordered) else page


def _uploaded(request: KfpRequest) -> dict[str, Any]:
    """Read the pipeline out of a form with one file."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    form = message_from_bytes(head + request.body, policy=HTTP)
    part = next(iter(form.walk() if not form.is_multipart() else form.iter_parts()))
    assert isinstance(part, Message)
    documents = list(yaml.load_all(part.get_payload(decode=True), yaml.CSafeLoader))  # type: ignore[arg-type]
    if len(documents) == 1:
        return dict(documents[0])
    specification, platform = documents
    return {
        "pipelineInfo": specification["pipelineInfo"],
        "pipeline_spec": specification,
        "platform_spec": platform,
    }


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": message, "message": message, "code": status, "details": []}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: ClassVar[StubKfp]

    def handle_any(self) -> None:
        request = self._request()
        fault = self.stub.planned(request)
        if fault == "drop":
            self.close_connection = True
            return
        if isinstance(fault, int):
            self.stub.requests.append(request)
            self._send(fault, _error(fault, "this was asked for"))
            return
        if fault == "slow":
            time.sleep(self.stub.slow_seconds)
        status, answer = self.stub.answer(request)
        if fault == "lose_answer":
            self.close_connection = True
        elif fault == "page":
            self._send_bytes(200, "text/html", b"<html>Log in to Kubeflow</html>")
        else:
            self._send(status, answer)

    do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _request(self) -> KfpRequest:
        split = urlsplit(self.path)
        return KfpRequest(
            method=self.command,
            path=unquote(split.path).removeprefix(_API),
            query={name: values[-1] for name, values in parse_qs(split.query).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
        )

    def _send(self, status: int, answer: object) -> None:
        self._send_bytes(status, "application/json", json.dumps(answer).encode())

    def _send_bytes(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
