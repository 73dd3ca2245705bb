"""The part of an API server that `helm install --dry-run=server` needs."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import helm_python

from helm.chart import CHART, Values

PYTORCH_JOB = ("kubeflow.org/v1", "PyTorchJob", "pytorchjobs")
TRAIN_JOB = ("trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs")
TRAINING_RUNTIME = ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime", "trainingruntimes")
JOB_SET = ("jobset.x-k8s.io/v1alpha2", "JobSet", "jobsets")
WORKFLOW = ("argoproj.io/v1alpha1", "Workflow", "workflows")
LOCAL_QUEUE = ("kueue.x-k8s.io/v1beta1", "LocalQueue", "localqueues")
_OF_KUBERNETES = (
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("v1", "Pod", "pods"),
    ("v1", "Secret", "secrets"),
    ("v1", "Service", "services"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("apps/v1", "Deployment", "deployments"),
    ("batch/v1", "CronJob", "cronjobs"),
    ("batch/v1", "Job", "jobs"),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    ("rbac.authorization.k8s.io/v1", "Role", "roles"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
)

_OPENAPI = "/openapi/v3/of/"

Kind = tuple[str, str, str]


class _Http(ThreadingHTTPServer):
    request_queue_size = 64  # Helm sends many requests at once.


class ApiServer:
    """A cluster with given kinds and objects.

    Args:
        kinds: What is installed besides Kubernetes: group and version, kind, plural.
        objects: What there is, by path below the namespace, for instance `secrets/mine`.
    """

    def __init__(self, kinds: tuple[Kind, ...], objects: Mapping[str, Mapping[str, Any]]) -> None:
        self.kinds = kinds + _OF_KUBERNETES
        self.objects = objects
        self.written: list[str] = []

    def answer(self, path: str) -> Mapping[str, Any] | None:
        """Return the object at a path, if any."""
        _, _, object_path = path.partition("/namespaces/research/")
        return self.objects.get(object_path) or self._discovery().get(path)

    def _discovery(self) -> dict[str, Mapping[str, Any]]:
        versions = sorted({version for version, _, _ in self.kinds})
        addresses = {_root(v)[1:]: {"serverRelativeURL": _OPENAPI + v} for v in versions}
        return {
            "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "groups": [_group(v) for v in versions if "/" in v]},
            "/openapi/v3": {"paths": addresses},
            **{_root(version): self._resources(version) for version in versions},
            **{_OPENAPI + version: self._openapi(version) for version in versions},
        }

    def _resources(self, version: str) -> dict[str, Any]:
        resources = [
            {"name": plural, "kind": kind, "namespaced": True, "verbs": ["get"]}
            for one, kind, plural in self.kinds
            if one == version
        ]
        return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}

    def _openapi(self, version: str) -> dict[str, Any]:
        group, _, number = version.rpartition("/")
        patched = {
            f"{_root(version)}/namespaces/{{namespace}}/{plural}/{{name}}": {
                "patch": {
                    "x-kubernetes-group-version-kind": {
                        "group": group,
                        "version": number,
                        "kind": kind,
                    },
                    # Helm then leaves the validation of fields to the server.
                    "parameters": [{"name": "fieldValidation", "in": "query"}],
                    "responses": {},
                }
            }
            for one, kind, plural in self.kinds
            if one == version
        }
        return {"openapi": "3.0.0", "info": {"title": "", "version": ""}, "paths": patched}


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _group(version: str) -> dict[str, Any]:
    name, _, number = version.partition("/")
    entry = {"groupVersion": version, "version": number}
    return {"name": name, "versions": [entry], "preferredVersion": entry}


@contextmanager
def serving(server: ApiServer) -> Iterator[str]:
    """Serve it on loopback; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = server.answer(self.path.partition("?")[0])
            body = json.dumps(found or {"kind": "Status", "code": 404}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            server.written.append(self.path)
            self.send_response(405)
            self.end_headers()

        do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with _Http(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


def install(server: ApiServer, values: Values) -> dict[str, Any]:
    """Install the chart like `helm install --dry-run=server`.

    Raises:
        HelmError: If the chart or the server refuses.
    """
    with serving(server) as address:
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "one", "cluster": {"server": address}}],
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "me"}}],
            "users": [{"name": "me", "user": {"token": "mine"}}],
            "current-context": "one",
        }
        with (
            helm_python.Config(
                kubeconfig_content=json.dumps(kubeconfig),
                namespace="research",
                storage_driver="memory",
                burst_limit=1000,
                qps=1000,
            ) as config,
            helm_python.Chart.load(CHART) as chart,
        ):
            return config.install(chart, "advgrpo", dict(values), dry_run="server")
