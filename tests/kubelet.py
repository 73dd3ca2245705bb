"""A kubelet that runs the pods of a fake cluster's jobs as local processes."""

import os
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advgrpo.testing import FakeCluster, FakeJob

ROOT = Path(__file__).parents[1]
INHERITED = (
    *("PATH", "LANG", "GLOO_SOCKET_IFNAME", "RES_OPTIONS"),
    *("AWS_EC2_METADATA_DISABLED", "COVERAGE_RCFILE"),
)

Json = dict[str, Any]


class Kubelet:
    """Runs the command of a pod's container with exactly the container's environment.

    Args:
        cluster: The cluster with the jobs, which may have one pod each.
        folder: Parent of the folders of the pods' volumes.
    """

    def __init__(self, cluster: FakeCluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._processes: list[subprocess.Popen[str]] = []
        self.codes: dict[str, int] = {}
        """Exit status of each job's pod, by the job's name."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run jobs as they are created while the context is open, then kill the rest."""
        closing = threading.Event()
        with ThreadPoolExecutor() as pool:
            watching = pool.submit(self._watch, pool, closing)
            try:
                yield
            finally:
                closing.set()
                for process in self._processes:
                    process.kill()
                watching.result()

    def _watch(self, pool: ThreadPoolExecutor, closing: threading.Event) -> None:
        started = []
        while not closing.wait(0.05):
            jobs = self._cluster.operator.jobs
            while len(started) < len(jobs):
                started.append(pool.submit(self._carry_out, jobs[len(started)]))
        for one in started:
            one.result()

    def _carry_out(self, job: FakeJob) -> None:
        with self._cluster.lock:
            job.add_pods()
            job.run()
            (pod,) = job.pods
        try:
            code = self._run(job, pod)
        except BaseException:
            with self._cluster.lock:
                job.exit_pod(1, message="the fake kubelet failed")
            raise
        self.codes[job.name] = code
        with self._cluster.lock:
            if code:
                job.exit_pod(code)
            else:
                job.succeed()

    def _run(self, job: FakeJob, pod: Json) -> int:
        (container,) = pod["spec"]["containers"]
        volumes = self._folder / job.name
        volumes.mkdir(parents=True)
        with subprocess.Popen(
            [sys.executable if word == "python" else word for word in container["command"]],
            cwd=ROOT,
            env=self._environment(container, job.namespace, volumes),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            self._processes.append(process)
            assert process.stdout is not None
            for line in process.stdout:
                with self._cluster.lock:
                    job.log(line.rstrip("\n"))
            return process.wait()

    def _environment(self, container: Json, namespace: str, volumes: Path) -> dict[str, str]:
        found = {name: os.environ[name] for name in INHERITED if name in os.environ}
        for source in container.get("envFrom", []):
            found |= self._stored("configmaps", namespace, source["configMapRef"]["name"])
        for one in container.get("env", []):
            if "valueFrom" not in one:
                found[one["name"]] = one.get("value", "")
                continue
            key = one["valueFrom"]["secretKeyRef"]
            secret = self._stored("secrets", namespace, key["name"], optional=key["optional"])
            if key["key"] in secret:
                found[one["name"]] = secret[key["key"]]
        for mount in container["volumeMounts"]:
            place = volumes / mount["name"]
            place.mkdir()
            found = {
                name: str(place) if value == mount["mountPath"] else value
                for name, value in found.items()
            }
        return {**found, "PET_NNODES": "1", "PYTHONPATH": str(ROOT)}

    def _stored(
        self, resource: str, namespace: str, name: str, *, optional: bool = False
    ) -> Mapping[str, str]:
        with self._cluster.lock:
            found = self._cluster.store.find("", resource, namespace, name)
        if found is None and optional:
            return {}
        assert found is not None, f"{resource} {name}"
        if resource == "secrets":
            coded = {key: b64decode(value).decode() for key, value in found.get("data", {}).items()}
            return {**coded, **found.get("stringData", {})}
        content: Mapping[str, str] = found["data"]
        return content
