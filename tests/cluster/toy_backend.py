"""A second kind of job: another API group, a phase for a status, pods with random names.

Its pods belong to an object in between, so they do not name the job as their owner.
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from kubernetes import client

from advgrpo.cluster.api import Json
from advgrpo.cluster.backends.base import JobState, JobStatus
from advgrpo.cluster.job_request import JobRequest, place_processes
from advgrpo.cluster.pod_template import job_labels, pod_template
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.testing import FakeJob
from advgrpo.testing.cluster_objects import Target, timestamp
from advgrpo.testing.pods import create_event, start_container

RESOURCE = Resource("toy.example", "v1beta1", "toyjobs", installed_by="the toy operator")
_STATES = {
    "Paused": JobState.QUEUED,
    "Active": JobState.RUNNING,
    "Done": JobState.SUCCEEDED,
    "Broken": JobState.FAILED,
}


class ToyJobs:
    """Jobs of equal pods with an index."""

    resource = RESOURCE
    container = "main"
    refusals: Mapping[str, str] = {}
    init_container: Json | None = None
    limits_restarts = False
    requires: tuple[Resource, ...] = ()
    templates: tuple[Resource, ...] = ()

    def manifest(self, request: JobRequest, settings: ClusterSettings) -> Json:
        """Return the job's object."""
        placement = place_processes(request.processes, settings)
        template = pod_template(request, placement, settings, container=self.container)
        return {
            "apiVersion": f"{RESOURCE.group}/{RESOURCE.version}",
            "kind": "ToyJob",
            "metadata": {"name": request.name, "labels": job_labels(request, settings)},
            "spec": {
                "pods": placement.nodes,
                "template": client.ApiClient().sanitize_for_serialization(template),
            },
        }

    def status(self, job: Json) -> JobStatus:
        """Read a job's status from its phase."""
        status = job.get("status") or {}
        return JobStatus(
            _STATES.get(status.get("phase", ""), JobState.STARTING),
            started_at=status.get("since", ""),
            message=status.get("text", ""),
            deadline_exceeded=status.get("text") == "late",
        )

    def pod_selector(self, job: Json) -> str:
        """Return the label selector of a job's pods."""
        return f"toy.example/job={job['metadata']['name']}"

    def owns(self, job: Json, pod: Json) -> bool:
        """Return whether a pod is not older than the job."""
        created: str = pod["metadata"]["creationTimestamp"]
        return created >= job["metadata"]["creationTimestamp"]

    def rank(self, pod: Json) -> int:
        """Return a pod's index."""
        return int(pod["metadata"]["labels"]["toy.example/index"])

    def event_selectors(self, job: Json) -> tuple[str, ...]:
        """Return the field selector of events about the object in between."""
        return (f"involvedObject.name={job['metadata']['name']}-pods",)

    def read_exit(self, event: Json) -> tuple[str, int] | None:
        """Return nothing: the events have no exit statuses."""
        del event
        return None


class ToyJob(FakeJob):
    """What the toy's operator does to a job."""

    resource: ClassVar = RESOURCE
    kind: ClassVar = "ToyJob"

    @property
    def pods(self) -> list[Json]:
        """The pods that exist."""
        every = self._store.all("", "pods", self.namespace)
        return [pod for pod in every if self._labels.items() <= pod["metadata"]["labels"].items()]

    @property
    def _labels(self) -> dict[str, str]:
        return {"toy.example/job": self.name}

    def pod(self, name: str = "master-0") -> Json | None:
        """Return the newest pod of an index: 0 is the master, 1 the first worker."""
        index = _index(name)
        found = [p for p in self.pods if p["metadata"]["labels"]["toy.example/index"] == index]
        return found[-1] if found else None

    def suspend(self) -> None:
        """Keep it in its queue: it has no pods."""
        for pod in self.pods:
            self._store.remove(pod)
        self._set_phase("Paused")

    def resume(self) -> None:
        """Let it out of its queue."""
        self._set_phase("Waiting", since=timestamp(self._store.now()))

    def add_pods(self) -> None:
        """Create the pods that do not exist."""
        self.body["status"].setdefault("since", timestamp(self._store.now()))
        for index in range(self.body["spec"]["pods"]):
            if self.pod(f"worker-{index - 1}" if index else "master-0") is None:
                self._add_pod("Worker" if index else "Master", max(index - 1, 0))

    def restart_pod(self, name: str) -> None:
        """Start a pod in place of one that failed, which stays."""
        kind, _, index = name.partition("-")
        start_container(self._store, self._add_pod(kind.capitalize(), int(index)))

    def record_event(self, reason: str, message: str, *, kind: str = "Warning") -> None:
        """Record an event about the object in between."""
        about = {"kind": "ToyPods", "name": f"{self.name}-pods"}
        create_event(self._store, self.namespace, about, (kind, reason, message))

    def _add_pod(self, kind: str, index: int) -> Json:
        template = copy.deepcopy(self.body["spec"]["template"])
        rank = index if kind == "Master" else index + 1
        labels = {**template["metadata"]["labels"], **self._labels, "toy.example/index": str(rank)}
        body: dict[str, Any] = {
            "metadata": {
                "generateName": f"{self.name}-{rank}-",
                "labels": labels,
                "ownerReferences": [{"kind": "ToyPods", "name": "pods", "uid": "in between"}],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        return self._store.create(Target("", "v1", "pods", self.namespace), body)

    def _condition(self, kind: str, reason: str, message: str, *, status: str = "True") -> None:
        del reason
        phases = {
            "Created": "Waiting",
            "Running": "Active",
            "Succeeded": "Done",
            "Failed": "Broken",
        }
        if status == "True" and kind in phases:
            self._set_phase(phases[kind], text=message)

    def _set_phase(self, phase: str, **more: str) -> None:
        self.body.setdefault("status", {}).update(phase=phase, **more)
        self._store.touch(self.body)


def _index(name: str) -> str:
    kind, _, index = name.partition("-")
    return "0" if kind == "master" else str(int(index) + 1)
