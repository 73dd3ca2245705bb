"""State of the fake Kubeflow Pipelines server, and its answers before they become HTTP.

It implements the parts of the API `v2beta1` that `kfp.Client`, the `kfp` command and
`advgrpo submit` use.
"""

import itertools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advgrpo.testing.kfp_requests import (
    KfpFault,
    KfpRequest,
    RefusalError,
    error_body,
    page,
    read_upload,
    select,
)


@dataclass
class _Planned:
    method: str
    path: str
    fault: KfpFault
    times: int


@dataclass
class KfpApi:
    """Experiments, pipelines and runs of a server, with faults on demand.

    Args:
        token: If not empty, the bearer token that requests must have.
        cookie: If not empty, the cookie that requests must have.
        namespaces: If not empty, the server is in multi-user mode and requests must name one.
        slow_seconds: Delay of an answer with the fault `slow`.
    """

    token: str = ""
    cookie: str = ""
    namespaces: Sequence[str] = ()
    slow_seconds: float = 1.0
    requests: list[KfpRequest] = field(default_factory=list)
    progress: list[dict[str, Any]] = field(default_factory=list)
    """Fields of a run at each successive read, for instance `{"state": "RUNNING"}`; the last ones
    persist."""

    logs: dict[str, str] = field(default_factory=dict)
    """Logs by the name of a task's pod."""

    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    recurring_runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _faults: list[_Planned] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, method: str, path: str, fault: KfpFault, *, times: int = 1) -> None:
        """Plan a fault for the next requests of a method whose path starts with `path`."""
        self._faults.append(_Planned(method, path, fault, times))

    def sent(self, method: str, path: str) -> list[KfpRequest]:
        """Return the requests of a method whose whole path matches a regular expression."""
        return [r for r in self.requests if r.method == method and re.fullmatch(path, r.path)]

    def next_fault(self, request: KfpRequest) -> KfpFault | None:
        """Take the fault planned for a request, if any."""
        for plan in self._faults:
            matches = request.method == plan.method and request.path.startswith(plan.path)
            if plan.times and matches:
                plan.times -= 1
                return plan.fault
        return None

    def answer(self, request: KfpRequest) -> tuple[int, Any]:
        """Carry out a request.

        Returns:
            HTTP status and JSON value of the answer.
        """
        with self._lock:
            # Recorded before the check, so that tests see refused requests, too.
            self.requests.append(request)
            try:
                self._check_access(request)
                return 200, self._route(request)
            except RefusalError as refusal:
                return refusal.status, error_body(refusal.status, refusal.message)

    def _check_access(self, request: KfpRequest) -> None:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            raise RefusalError(401, "Unauthenticated: the token is not known")
        if self.cookie and request.headers.get("cookie") != self.cookie:
            raise RefusalError(401, "Unauthenticated: the cookie is not known")

    def _route(self, request: KfpRequest) -> Any:  # noqa: ANN401 - a JSON value
        for (method, pattern), do in _ROUTES.items():
            match = re.fullmatch(pattern, request.path)
            if method == request.method and match:
                return do(self, request, *match.groups())
        raise RefusalError(404, f"Not Found: {request.method} {request.path}")

    def _new(self, kind: str) -> str:
        return f"{kind}-{next(self._ids)}"

    def _health(self, _request: KfpRequest) -> dict[str, Any]:
        return {"multi_user": bool(self.namespaces)}

    def _check_namespace(self, namespace: str) -> None:
        if self.namespaces and not namespace:
            raise RefusalError(400, "Invalid input error: a namespace is needed in multi-user mode")
        if self.namespaces and namespace not in self.namespaces:
            raise RefusalError(403, f"User is not authorized to act in namespace {namespace}")
        if not self.namespaces and namespace:
            raise RefusalError(
                400, "Invalid input error: In single-user mode, namespace must be empty"
            )

    def _create_experiment(self, request: KfpRequest) -> dict[str, Any]:
        body = request.json
        self._check_namespace(body.get("namespace", ""))
        if _with_name(self.experiments, body["display_name"]):
            raise RefusalError(409, f"Already exist error: experiment {body['display_name']}")
        return _add(self.experiments, "experiment_id", self._new("experiment"), body)

    def _list_experiments(self, request: KfpRequest) -> dict[str, Any]:
        self._check_namespace(request.query.get("namespace", ""))
        return page("experiments", select(self.experiments, request), request)

    def _create_pipeline(self, request: KfpRequest) -> dict[str, Any]:
        return self._add_pipeline(request.json)

    def _add_pipeline(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if _with_name(self.pipelines, body["display_name"]):
            raise RefusalError(409, f"Already exist error: pipeline {body['display_name']}")
        return _add(self.pipelines, "pipeline_id", self._new("pipeline"), body)

    def _upload_pipeline(self, request: KfpRequest) -> dict[str, Any]:
        document = read_upload(request)
        name = request.query.get("name", "") or document["pipelineInfo"]["name"]
        made = self._add_pipeline({"display_name": name, "name": name})
        self._add_version(made["pipeline_id"], name, document)
        return made

    def _upload_version(self, request: KfpRequest) -> dict[str, Any]:
        pipeline = request.query.get("pipelineid", "")
        if pipeline not in self.pipelines:
            raise RefusalError(404, f"ResourceNotFoundError: pipeline {pipeline} not found")
        return self._add_version(pipeline, request.query["name"], read_upload(request))

    def _add_version(self, pipeline: str, name: str, document: Any) -> dict[str, Any]:  # noqa: ANN401
        if _with_name(self._versions_of(pipeline), name):
            raise RefusalError(409, f"Already exist error: pipeline version {name}")
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
        return page("pipelines", select(self.pipelines, request), request)

    def _list_versions(self, request: KfpRequest, pipeline: str) -> dict[str, Any]:
        return page("pipeline_versions", select(self._versions_of(pipeline), request), request)

    def _get_version(self, _request: KfpRequest, _pipeline: str, version: str) -> dict[str, Any]:
        if version not in self.versions:
            raise RefusalError(404, f"ResourceNotFoundError: pipeline version {version} not found")
        return self.versions[version]

    def _check_run(self, body: Mapping[str, Any]) -> None:
        if body.get("experiment_id") not in self.experiments:
            raise RefusalError(
                404, f"ResourceNotFoundError: experiment {body.get('experiment_id')}"
            )
        document = body.get("pipeline_spec") or {}
        if reference := body.get("pipeline_version_reference"):
            version = self.versions.get(reference["pipeline_version_id"])
            if version is None:
                raise RefusalError(404, "ResourceNotFoundError: the pipeline version is not found")
            document = version["pipeline_spec"]
        inputs = document.get("pipeline_spec", document)["root"]["inputDefinitions"]["parameters"]
        given = (body.get("runtime_config") or {}).get("parameters") or {}
        missing = [
            name
            for name, entry in inputs.items()
            if name not in given and "defaultValue" not in entry and not entry.get("isOptional")
        ]
        if missing:
            raise RefusalError(400, f"Invalid input error: parameters {missing} are not provided")

        for name, value in given.items():
            literals = inputs.get(name, {}).get("literals")
            if literals and value not in literals:
                raise RefusalError(400, f"Invalid input error: {name}={value} is not in {literals}")

    def _create_run(self, request: KfpRequest) -> dict[str, Any]:
        self._check_run(request.json)
        run = {**request.json, "state": "PENDING", "reads": 0}
        return _public(_add(self.runs, "run_id", self._new("run"), run))

    def _list_runs(self, request: KfpRequest) -> dict[str, Any]:
        if "experiment_id" not in request.query:
            self._check_namespace(request.query.get("namespace", ""))
        return page("runs", [_public(run) for run in select(self.runs, request)], request)

    def _get_run(self, _request: KfpRequest, run_id: str) -> dict[str, Any]:
        run = self._run(run_id)
        if self.progress:
            run.update(self.progress[min(run["reads"], len(self.progress) - 1)])
            run["reads"] += 1
        return _public(run)

    def _run(self, run_id: str) -> dict[str, Any]:
        if run_id not in self.runs:
            raise RefusalError(404, f"ResourceNotFoundError: Run {run_id} not found")
        return self.runs[run_id]

    def _read_log(self, _request: KfpRequest, run_id: str, pod: str) -> bytes:
        self._run(run_id)
        if pod not in self.logs:
            raise RefusalError(404, f"ResourceNotFoundError: pod {pod} not found")
        return self.logs[pod].encode()

    def _create_recurring_run(self, request: KfpRequest) -> dict[str, Any]:
        self._check_run(request.json)
        made = _add(self.recurring_runs, "recurring_run_id", self._new("recurring"), request.json)
        return {**made, "max_concurrency": str(made.get("max_concurrency", ""))}

    def _list_recurring_runs(self, request: KfpRequest) -> dict[str, Any]:
        return page("recurringRuns", select(self.recurring_runs, request), request)


_ROUTES: dict[tuple[str, str], Callable[..., Any]] = {
    ("GET", "/healthz"): KfpApi._health,
    ("POST", "/experiments"): KfpApi._create_experiment,
    ("GET", "/experiments"): KfpApi._list_experiments,
    ("POST", "/pipelines"): KfpApi._create_pipeline,
    ("GET", "/pipelines"): KfpApi._list_pipelines,
    ("POST", "/pipelines/upload"): KfpApi._upload_pipeline,
    ("POST", "/pipelines/upload_version"): KfpApi._upload_version,
    ("GET", "/pipelines/([^/]+)/versions"): KfpApi._list_versions,
    ("GET", "/pipelines/([^/]+)/versions/([^/]+)"): KfpApi._get_version,
    ("POST", "/runs"): KfpApi._create_run,
    ("GET", "/runs"): KfpApi._list_runs,
    ("GET", "/runs/([^/]+)"): KfpApi._get_run,
    ("GET", "/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log"): KfpApi._read_log,
    ("POST", "/recurringruns"): KfpApi._create_recurring_run,
    ("GET", "/recurringruns"): KfpApi._list_recurring_runs,
}


def _add(
    into: dict[str, dict[str, Any]], key: str, value: str, body: Mapping[str, Any]
) -> dict[str, Any]:
    into[value] = {**body, key: value, "created_at": "2026-01-01T00:00:00Z"}
    return into[value]


def _public(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "reads"}


def _with_name(among: Mapping[str, Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [entry for entry in among.values() if entry.get("display_name") == name]
