"""Fake PyTorchJobs and the steps of their plans."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from advgrpo.cluster.resources import Resource
from advgrpo.testing.cluster_objects import Json, Target, timestamp
from advgrpo.testing.controllers import Controller
from advgrpo.testing.pods import (
    create_event,
    end_container,
    is_running,
    pod_of,
    set_container_state,
    start_container,
)


@dataclass(frozen=True)
class Step:
    """Something that happens to a job."""

    after_seconds: float | int
    """Time since the job was created."""

    act: Callable[["FakeJob"], None]


Plan = Sequence[Step]


def run_until(end: Callable[["FakeJob"], None], *, seconds: float | int = 30) -> Plan:
    """Plan a job whose pods start at once and log two lines.

    Args:
        end: The last step, for instance `FakeJob.succeed`.
        seconds: When it happens.
    """
    return (
        Step(1, lambda job: job.add_pods()),
        Step(2, lambda job: job.run()),
        Step(3, lambda job: job.log("hello", "world")),
        Step(seconds, end),
    )


class FakeJob:
    """A PyTorchJob and what can happen to it.

    Args:
        operator: The operator that reconciles it.
        body: The object, changed in place.
        plan: The steps that happen to it.
    """

    resource: ClassVar = Resource("kubeflow.org", "v1", "pytorchjobs")
    further: ClassVar[tuple[Resource, ...]] = ()
    kind: ClassVar = "PyTorchJob"
    suspended: ClassVar[Json] = {"spec": {"runPolicy": {"suspend": True}}}

    def __init__(self, operator: Controller, body: Json, plan: Plan) -> None:
        self._operator = operator
        self._store = operator.store
        self.body = body
        self.name = str(body["metadata"]["name"])
        self.uid = str(body["metadata"]["uid"])
        self.namespace = str(body["metadata"]["namespace"])
        self.created = self._store.now()
        self.end = ""
        """`Succeeded` or `Failed`; empty until then."""

        self.log_lines: list[str] = []
        """Every line of the first pod's logs, including pods that were replaced."""

        self.refused: dict[str, str] = {}
        """Refusals of the API server by the suffixes of the pods' names."""

        self.neglected = False
        """Whether the controller ignores pods that end, as if it did not run."""
        self._due = sorted(plan, key=lambda step: step.after_seconds)
        self._restarts: list[tuple[float, str]] = []
        self._condition("Created", "PyTorchJobCreated", f"PyTorchJob {self.name} is created.")

    @property
    def exists(self) -> bool:
        """Whether the object exists, which includes a deletion in progress."""
        kind = self.resource
        found = self._store.find(kind.group, kind.plural, self.namespace, self.name)
        return found is not None and found["metadata"]["uid"] == self.uid

    @property
    def is_active(self) -> bool:
        """Whether it exists, has not ended and is not being deleted."""
        deleted = "deletionTimestamp" in self.body["metadata"]
        return self.exists and not self.end and not deleted

    @property
    def pods(self) -> list[Json]:
        """Pods of the job that exist."""
        return [
            pod
            for pod in self._store.all("", "pods", self.namespace)
            if pod["metadata"]["ownerReferences"][0]["uid"] == self.uid
        ]

    def pod(self, name: str = "master-0") -> Json | None:
        """Return a pod by the suffix of its name, or None if it does not exist."""
        return next((p for p in self.pods if p["metadata"]["name"] == f"{self.name}-{name}"), None)

    def next_due(self) -> float:
        """Return the time of the next step; infinity if none is left."""
        planned = [self.created + step.after_seconds for step in self._due[:1]]
        return min([*planned, *(when for when, _ in self._restarts)], default=float("inf"))

    def do_next(self) -> None:
        """Carry out the next step; once the job has ended, steps are dropped."""
        when = self.next_due()
        if restart := next((one for one in self._restarts if one[0] == when), None):
            self._restarts.remove(restart)
            act: Callable[[FakeJob], None] = partial(type(self).restart_pod, name=restart[1])
        else:
            act = self._due.pop(0).act
        if self.is_active:
            act(self)

    # Steps of the operator.

    def suspend(self) -> None:
        """Suspend the job, as a queue does: its pods are removed."""
        self.body["spec"].setdefault("runPolicy", {})["suspend"] = True
        for pod in self.pods:
            self._store.remove(pod)
        self._condition("Running", "PyTorchJobSuspended", "suspended", status="False")
        self._condition("Suspended", "PyTorchJobSuspended", f"PyTorchJob {self.name} is suspended.")

    def resume(self) -> None:
        """Admit the job from its queue."""
        self.body["spec"].setdefault("runPolicy", {})["suspend"] = False
        self._condition("Suspended", "PyTorchJobResumed", "is resumed.", status="False")
        self.body["status"]["startTime"] = timestamp(self._store.now())

    def add_pods(self) -> None:
        """Create the missing pods, which wait for nodes."""
        status = self.body["status"]
        status.setdefault("startTime", timestamp(self._store.now()))
        for kind, replica in self.body["spec"]["pytorchReplicaSpecs"].items():
            for index in range(replica["replicas"]):
                name = f"{kind.lower()}-{index}"
                if name in self.refused:
                    self.record_event("FailedCreatePod", f"Error creating: {self.refused[name]}")
                elif self.pod(name) is None:
                    self._add_pod(kind, index)

    def run(self) -> None:
        """Start the containers of all pods."""
        for pod in self.pods:
            start_container(self._store, pod)
        self._condition("Running", "PyTorchJobRunning", f"PyTorchJob {self.name} is running.")

    def restart_pod(self, name: str) -> None:
        """Replace a pod by a new, running one."""
        pod = self.pod(name)
        if pod is not None:
            self._store.remove(pod)
        kind, _, index = name.partition("-")
        start_container(self._store, self._add_pod(kind.capitalize(), int(index)))
        self._condition("Running", "PyTorchJobRunning", f"PyTorchJob {self.name} is running.")

    def succeed(self) -> None:
        """Let the first pod complete, and with it the job."""
        pod = self.pod() or self._add_pod("Master", 0)
        end_container(self._store, pod, 0, reason="Completed")
        self._finish("Succeeded", "PyTorchJobSucceeded", f"{self.name} is successfully completed.")

    def fail(self, message: str = "the job has reached the specified backoff limit") -> None:
        """Fail the job."""
        self._finish("Failed", "PyTorchJobFailed", f"Job {self.name} has failed because {message}")

    # Steps of pods: scheduler, kubelet and container.

    def log(self, *lines: str, pod: str = "master-0") -> None:
        """Write lines to a pod's log."""
        found = self.pod(pod)
        if found is None or not is_running(found):
            return
        self._operator.logs.append(found, lines, self._store.now())
        if pod == "master-0":
            self.log_lines.extend(lines)

    def exit_pod(
        self, code: int, *, pod: str = "master-0", reason: str = "Error", message: str = ""
    ) -> None:
        """Terminate a pod's container; the operator replaces the pod or fails the job.

        Args:
            code: Exit status, not 0; the operator restarts pods from 128 on.
            pod: Suffix of the pod's name.
            reason: Reason of the kubelet, for instance `OOMKilled`.
            message: Termination message of the container.
        """
        found = self.pod(pod)
        if found is None:
            return
        end_container(self._store, found, code, reason=reason, message=message)
        where = f"{self.namespace}.{found['metadata']['name']}"
        self.record_event("ExitedWithCode", f"Pod: {where} exited with code {code}", kind="Normal")
        # Restart policy ExitCode of the operator.
        if code < 128:
            self._finish("Failed", "PyTorchJobFailed", f'job "{self.name}" is failing')
        else:
            self._restart_later(pod)

    def evict(self, *, pod: str = "master-0", reason: str = "Evicted", message: str = "") -> None:
        """Evict a pod from its node; the operator replaces it."""
        found = self.pod(pod)
        if found is None:
            return
        found["status"] |= {"phase": "Failed", "reason": reason, "message": message}
        # An evicted pod may have no container status.
        found["status"].pop("containerStatuses", None)
        self._store.touch(found)
        self._restart_later(pod)

    def wait_for_node(self, message: str = "0/5 nodes are available") -> None:
        """Mark all pods as unschedulable."""
        unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        for pod in self.pods:
            pod["status"]["conditions"] = [unschedulable | {"message": message}]
            self._store.touch(pod)

    def wait_in_container(self, reason: str, message: str = "") -> None:
        """Keep the containers waiting, for instance with `ImagePullBackOff`."""
        for pod in self.pods:
            set_container_state(
                self._store, pod, {"waiting": {"reason": reason, "message": message}}
            )

    def record_event(self, reason: str, message: str, *, kind: str = "Warning") -> None:
        """Record an event about the job."""
        about = {"kind": self.kind, "name": self.name, "uid": self.uid}
        create_event(self._store, self.namespace, about, (kind, reason, message))

    def neglect(self, condition: str = "") -> None:
        """Stop reconciling the job; its last condition may be `Restarting`."""
        if condition:
            self._condition(condition, f"PyTorchJob{condition}", f"{self.name}: {condition}")
        self.neglected = True

    # Steps of other clients.

    def delete(self) -> None:
        """Delete the job as another client would."""
        self._store.remove(self.body)

    def replace(self) -> None:
        """Delete and recreate the job as another client would: same name and spec, another uid."""
        body = copy.deepcopy(self.body)
        for key in ("uid", "resourceVersion", "creationTimestamp"):
            del body["metadata"][key]
        del body["status"]
        self.delete()
        kind = self.resource
        target = Target(kind.group, kind.version, kind.plural, self.namespace)
        self._operator.on_create(target, self._store.create(target, body))

    def _add_pod(self, kind: str, index: int) -> Json:
        body = pod_of(self.body, kind, index)
        return self._store.create(Target("", "v1", "pods", self.namespace), body)

    def _restart_later(self, pod: str) -> None:
        if self.neglected:
            return
        self._condition("Restarting", "PyTorchJobRestarting", f"{self.name} is restarting")
        when = self._store.now() + self._operator.restart_seconds
        self._restarts.append((when, pod))

    def _finish(self, kind: str, reason: str, message: str) -> None:
        if self.neglected:
            return
        self.end = kind
        self._condition("Running", reason, message, status="False")
        self._condition(kind, reason, message)
        self.body["status"]["completionTime"] = timestamp(self._store.now())
        # The operator cleans up workers once the master has ended.
        policy = self.body["spec"].get("runPolicy", {}).get("cleanPodPolicy", "None")
        for pod in self.pods:
            ended = pod["status"]["phase"] in {"Succeeded", "Failed"}
            if policy == "All" or (policy == "Running" and not ended):
                self._store.remove(pod)

    def _condition(self, kind: str, reason: str, message: str, *, status: str = "True") -> None:
        conditions = self.body.setdefault("status", {}).setdefault("conditions", [])
        # The operator removes each of these two when it sets the other one.
        replaced = {"Running", "Restarting"} if kind in {"Running", "Restarting"} else {kind}
        conditions[:] = [one for one in conditions if one["type"] not in replaced]
        conditions.append({"type": kind, "status": status, "reason": reason, "message": message})
        self._store.touch(self.body)
