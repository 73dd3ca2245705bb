"""A fake Kubernetes API server: real HTTP on loopback, for the real client."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from advgrpo.testing.cluster_api import ClusterApi
from advgrpo.testing.cluster_http import ClusterServer
from advgrpo.testing.training_jobs import FakeJob


class FakeCluster(ClusterApi):
    """An API server with objects, a training operator, and faults on demand.

    It stores objects of any group, version and resource, answers access reviews, and serves pod
    logs. `operator.plans` determine what happens to jobs, `faults` what happens to requests. With a
    clock that only the test advances, a run is deterministic.

    Args:
        clock: Returns seconds since 1970.
        namespaces: Namespaces that exist.
        job_type: The kind of jobs that the operator reconciles.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        namespaces: tuple[str, ...] = ("default",),
        job_type: type[FakeJob] = FakeJob,
    ) -> None:
        super().__init__(clock=clock, namespaces=namespaces, job_type=job_type)
        self._server = ClusterServer(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def kubeconfig(self, path: Path, *, namespace: str = "default") -> Path:
        """Write a kubeconfig file for this server."""
        context = {"cluster": "fake", "user": "fake", "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": context}],
        }
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def reset(self) -> None:
        """Drop all connections and clear all state."""
        with self.lock:
            self._server.drop_connections()
            self.clear()

    def close(self) -> None:
        """Stop the server, drop all connections, and raise the first error of its handlers."""
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()
        if self._server.errors:
            raise self._server.errors[0]
