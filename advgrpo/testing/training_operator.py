"""What Kubeflow's training operator, scheduler, kubelet and others do to jobs, by a plan.

Source:
    Kubeflow training-operator 1.9, `pkg/controller.v1/common/{job,pod}.go`.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from advgrpo.testing.cluster_objects import Json, ObjectStore, RefusedError, Target, timestamp

_GROUP = "kubeflow.org"
_JOBS = "pytorchjobs"
_CONTAINER = "pytorch"
_RETRYABLE = 128


@dataclass(frozen=True)
class Step:
    """Something that happens to a job."""

    after_seconds: float | int
    """Since the job was created."""

    act: Callable[["JobInHand"], None]


Plan = Sequence[Step]


def runs_to(end: Callable[["JobInHand"], None], *, seconds: float | int = 30) -> Plan:
    """Plan a job whose pods start at once, say a few words and end."""
    return (
        Step(1, JobInHand.add_pods),
        Step(2, JobInHand.run),
        Step(3, lambda job: job.say("hello", "world")),
        Step(seconds, end),
    )


@dataclass
class TrainingOperator:
    """Carries out plans as the clock moves on.

    The first job created gets the first plan, and so on; further ones get the last.
    """

    store: ObjectStore
    restart_seconds: float | int = 2
    """How long a failed pod can be seen before it is made anew."""

    plans: list[Plan] = field(default_factory=list)
    jobs: list["JobInHand"] = field(default_factory=list)
    """Every job that there ever was."""

    logs: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    """Moment and text of each line, by the pod's uid."""

    _moments: "itertools.count[int]" = field(default_factory=itertools.count)

    def clear(self) -> None:
        """Forget all."""
        self.plans.clear()
        self.jobs.clear()
        self.logs.clear()

    def see_new(self, target: Target, made: Json) -> None:
        """Take a new object in hand if it is a job."""
        if (target.group, target.resource) == (_GROUP, _JOBS):
            plan = self.plans[min(len(self.jobs), len(self.plans) - 1)] if self.plans else ()
            self.jobs.append(JobInHand(self, made, plan))

    def advance(self) -> None:
        """Do what is due, each thing at its moment."""
        while self.jobs:
            job = min(self.jobs, key=JobInHand.next_due)
            if job.next_due() > self.store.clock():
                return
            self.store.moment = job.next_due()
            self.store.collect()
            job.do_next()
            self.store.moment = None

    def next_moment(self) -> float:
        """Give the present, a little later each time: no two lines of a log are of one moment."""
        return self.store.now() + next(self._moments) % 100_000 * 1e-6

    def is_running(self, namespace: str, name: str) -> bool:
        """Say whether a pod's container runs."""
        pod = self.store.find("", "pods", namespace, name)
        return pod is not None and "running" in _container(pod).get("state", {})

    def log(self, namespace: str, name: str, parameters: Mapping[str, str]) -> str:
        """Give a pod's log.

        Raises:
            RefusedError: If there is no such pod, or it has not started.
        """
        pod = self.store.named(Target("", "v1", "pods", namespace, name))
        state = _container(pod).get("state", {})
        if not {"running", "terminated"} & state.keys():
            message = f'container "{_CONTAINER}" in pod "{name}" is waiting to start'
            raise RefusedError(400, "BadRequest", message)
        since = parameters.get("sinceTime", "")
        lines = [
            (timestamp(moment, 9), text)
            for moment, text in self.logs.get(pod["metadata"]["uid"], ())
            if timestamp(moment, 9) >= since.removesuffix("Z")
        ]
        last = int(parameters.get("tailLines") or len(lines))
        dated = parameters.get("timestamps", "").lower() == "true"
        chosen = lines[len(lines) - min(last, len(lines)) :]
        return "".join(f"{when} {text}\n" if dated else f"{text}\n" for when, text in chosen)


def _container(pod: Json) -> Json:
    statuses: list[Json] = pod["status"].get("containerStatuses") or [{}]
    return statuses[0]


class JobInHand:
    """One job, and what can happen to it.

    Args:
        operator: Whose it is.
        body: The object, changed in place.
        plan: What happens to it.
    """

    def __init__(self, operator: TrainingOperator, body: Json, plan: Plan) -> None:
        self.operator = operator
        self.body = body
        self.created = operator.store.now()
        self.end = ""
        """`Succeeded` or `Failed` once it is."""

        self.said: list[str] = []
        """Every line of the first pod's logs, also of pods that are gone."""

        self._due = sorted(plan, key=lambda step: step.after_seconds)
        self._restarts: list[tuple[float, str]] = []
        self._condition("Created", "PyTorchJobCreated", f"PyTorchJob {self.name} is created.")

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Its uid."""
        return str(self.body["metadata"]["uid"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.body["metadata"]["namespace"])

    @property
    def exists(self) -> bool:
        """Whether it was not deleted, or is still being deleted."""
        found = self.operator.store.find(_GROUP, _JOBS, self.namespace, self.name)
        return found is not None and found["metadata"]["uid"] == self.uid

    @property
    def is_active(self) -> bool:
        """Whether it exists, has not ended and is not being deleted."""
        going = "deletionTimestamp" in self.body["metadata"]
        return self.exists and not self.end and not going

    @property
    def pods(self) -> list[Json]:
        """Its pods that exist."""
        return [
            pod
            for pod in self.operator.store.all("", "pods", self.namespace)
            if pod["metadata"]["ownerReferences"][0]["uid"] == self.uid
        ]

    def pod(self, name: str = "master-0") -> Json | None:
        """Give a pod by the end of its name, or None if it is not there."""
        return next((p for p in self.pods if p["metadata"]["name"] == f"{self.name}-{name}"), None)

    def next_due(self) -> float:
        """Say when something is due next; infinity for never."""
        planned = [self.created + step.after_seconds for step in self._due[:1]]
        return min([*planned, *(when for when, _ in self._restarts)], default=float("inf"))

    def do_next(self) -> None:
        """Do what is due next; after its end nothing more happens."""
        when = self.next_due()
        restart = next((one for one in self._restarts if one[0] == when), None)
        if restart is not None:
            self._restarts.remove(restart)
            act: Callable[[JobInHand], None] = functools.partial(JobInHand.remake, name=restart[1])
        else:
            act = self._due.pop(0).act
        if self.is_active:
            act(self)

    # What the operator does.

    def suspend(self) -> None:
        """Keep it in its queue: it has no pods."""
        self.body["spec"].setdefault("runPolicy", {})["suspend"] = True
        for pod in self.pods:
            self.operator.store.remove(pod)
        self._condition("Running", "PyTorchJobSuspended", "suspended", status="False")
        self._condition("Suspended", "PyTorchJobSuspended", f"PyTorchJob {self.name} is suspended.")

    def resume(self) -> None:
        """Let it out of its queue."""
        self.body["spec"].setdefault("runPolicy", {})["suspend"] = False
        self._condition("Suspended", "PyTorchJobResumed", "is resumed.", status="False")
        self.body["status"]["startTime"] = timestamp(self.operator.store.now())

    def add_pods(self) -> None:
        """Create its pods that are not there; they wait for nodes."""
        status = self.body["status"]
        status.setdefault("startTime", timestamp(self.operator.store.now()))
        for kind, replica in self.body["spec"]["pytorchReplicaSpecs"].items():
            for index in range(replica["replicas"]):
                if self.pod(f"{kind.lower()}-{index}") is None:
                    self._add_pod(kind, index)

    def run(self) -> None:
        """Start the containers of all its pods."""
        for pod in self.pods:
            self._start(pod)
        self._condition("Running", "PyTorchJobRunning", f"PyTorchJob {self.name} is running.")

    def remake(self, name: str) -> None:
        """Replace a pod by a new one that runs."""
        pod = self.pod(name)
        if pod is not None:
            self.operator.store.remove(pod)
        kind, _, index = name.partition("-")
        self._start(self._add_pod(kind.capitalize(), int(index)))
        self._condition("Running", "PyTorchJobRunning", f"PyTorchJob {self.name} is running.")

    def succeed(self) -> None:
        """Let the first pod end well, and with it the job."""
        pod = self.pod() or self._add_pod("Master", 0)
        self._terminate(pod, 0, "Completed", "")
        pod["status"]["phase"] = "Succeeded"
        self._finish("Succeeded", "PyTorchJobSucceeded", f"{self.name} is successfully completed.")

    def fail(self, message: str = "the job has reached the specified backoff limit") -> None:
        """Let the job fail."""
        self._finish("Failed", "PyTorchJobFailed", f"Job {self.name} has failed because {message}")

    # What happens to pods.

    def say(self, *lines: str, pod: str = "master-0") -> None:
        """Let a pod write to its log."""
        found = self.pod(pod)
        if found is None or "running" not in _container(found).get("state", {}):
            return
        log = self.operator.logs.setdefault(found["metadata"]["uid"], [])
        log.extend((self.operator.next_moment(), line) for line in lines)
        if pod == "master-0":
            self.said.extend(lines)

    def exit_pod(
        self, code: int, *, pod: str = "master-0", reason: str = "Error", message: str = ""
    ) -> None:
        """Let a pod's container end; the operator makes the pod anew, or lets the job fail.

        Args:
            code: Exit status, not 0.
            pod: Which one.
            reason: The kubelet's word, for instance `OOMKilled`.
            message: The container's last words.
        """
        found = self.pod(pod)
        if found is None:
            return
        self._terminate(found, code, reason, message)
        found["status"]["phase"] = "Failed"
        where = f"{self.namespace}.{found['metadata']['name']}"
        self.tell_event("ExitedWithCode", f"Pod: {where} exited with code {code}", kind="Normal")
        if code < _RETRYABLE:
            self._finish("Failed", "PyTorchJobFailed", f'job "{self.name}" is failing')
        else:
            self._restart_later(pod)

    def evict(self, *, pod: str = "master-0", reason: str = "Evicted", message: str = "") -> None:
        """Let a node throw out a pod; the operator makes it anew."""
        found = self.pod(pod)
        if found is None:
            return
        found["status"] |= {"phase": "Failed", "reason": reason, "message": message}
        found["status"].pop("containerStatuses", None)
        self.operator.store.touch(found)
        self._restart_later(pod)

    def wait_for_node(self, message: str = "0/5 nodes are available") -> None:
        """Let the scheduler find no node for any of its pods."""
        for pod in self.pods:
            pod["status"]["conditions"] = [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": message,
                }
            ]
            self.operator.store.touch(pod)

    def wait_in_container(self, reason: str, message: str = "") -> None:
        """Let the kubelet not start the containers, for instance for `ImagePullBackOff`."""
        for pod in self.pods:
            self._container_state(pod, {"waiting": {"reason": reason, "message": message}})

    def tell_event(self, reason: str, message: str, *, kind: str = "Warning") -> None:
        """Record an event about the job."""
        about = {"kind": "PyTorchJob", "name": self.name, "uid": self.uid}
        event = {
            "metadata": {"generateName": f"{self.name}."},
            "involvedObject": about,
            "type": kind,
            "reason": reason,
            "message": message,
        }
        self.operator.store.create(Target("", "v1", "events", self.namespace), event)

    # What others do.

    def delete(self) -> None:
        """Let somebody else delete it."""
        self.operator.store.remove(self.body)

    def replace(self) -> None:
        """Let somebody else delete it and create it again: same name and spec, another uid."""
        body = copy.deepcopy(self.body)
        for key in ("uid", "resourceVersion", "creationTimestamp"):
            del body["metadata"][key]
        del body["status"]
        self.delete()
        target = Target(_GROUP, "v1", _JOBS, self.namespace)
        self.operator.see_new(target, self.operator.store.create(target, body))

    def _add_pod(self, kind: str, index: int) -> Json:
        replica = self.body["spec"]["pytorchReplicaSpecs"][kind]
        template = copy.deepcopy(replica["template"])
        labels = template.get("metadata", {}).get("labels", {}) | {
            "training.kubeflow.org/job-name": self.name,
            "training.kubeflow.org/operator-name": "pytorchjob-controller",
            "training.kubeflow.org/replica-type": kind.lower(),
            "training.kubeflow.org/replica-index": str(index),
        }
        if kind == "Master":
            labels["training.kubeflow.org/job-role"] = "master"
        owner = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "name": self.name}
        body = {
            "metadata": {
                "name": f"{self.name}-{kind.lower()}-{index}",
                "labels": labels,
                "annotations": template.get("metadata", {}).get("annotations", {}),
                "ownerReferences": [owner | {"uid": self.uid, "controller": True}],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        return self.operator.store.create(Target("", "v1", "pods", self.namespace), body)

    def _start(self, pod: Json) -> None:
        pod["status"] = {"phase": "Running", "conditions": [], "containerStatuses": []}
        began = timestamp(self.operator.store.now())
        self._container_state(pod, {"running": {"startedAt": began}})

    def _terminate(self, pod: Json, code: int, reason: str, message: str) -> None:
        ended = timestamp(self.operator.store.now())
        end = {"exitCode": code, "reason": reason, "message": message, "finishedAt": ended}
        self._container_state(pod, {"terminated": end})

    def _container_state(self, pod: Json, state: Json) -> None:
        one = {
            "name": _CONTAINER,
            "image": "trainer",
            "imageID": "",
            "restartCount": 0,
            "ready": "running" in state,
            "state": state,
        }
        pod["status"]["containerStatuses"] = [one]
        self.operator.store.touch(pod)

    def _restart_later(self, pod: str) -> None:
        self._condition("Restarting", "PyTorchJobRestarting", f"{self.name} is restarting")
        when = self.operator.store.now() + self.operator.restart_seconds
        self._restarts.append((when, pod))

    def _finish(self, kind: str, reason: str, message: str) -> None:
        self.end = kind
        self._condition("Running", reason, message, status="False")
        self._condition(kind, reason, message)
        self.body["status"]["completionTime"] = timestamp(self.operator.store.now())
        policy = self.body["spec"].get("runPolicy", {}).get("cleanPodPolicy", "None")
        for pod in self.pods:
            ended = pod["status"]["phase"] in {"Succeeded", "Failed"}
            if policy == "All" or (policy == "Running" and not ended):
                self.operator.store.remove(pod)

    def _condition(self, kind: str, reason: str, message: str, *, status: str = "True") -> None:
        conditions = self.body.setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [one for one in conditions if one["type"] != kind]
        if kind in {"Running", "Restarting"}:
            other = {"Running": "Restarting", "Restarting": "Running"}[kind]
            conditions[:] = [one for one in conditions if one["type"] != other]
        conditions.append({"type": kind, "status": status, "reason": reason, "message": message})
        self.operator.store.touch(self.body)
