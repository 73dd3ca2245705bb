"""Pods of fake training jobs: their objects, container states and logs."""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from advgrpo.testing.cluster_objects import Json, ObjectStore, RefusedError, Target, timestamp


@dataclass
class PodLogs:
    """The logs of all pods, by uid."""

    lines: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    """Timestamp and text of each line, by the pod's uid."""

    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    def append(self, pod: Json, texts: tuple[str, ...], now: float) -> None:
        """Add lines to a pod's log."""
        log = self.lines.setdefault(pod["metadata"]["uid"], [])
        # Distinct timestamps, as the kubelet's: a reader resumes after the last one that it saw.
        log.extend((now + next(self._count) % 100_000 * 1e-6, text) for text in texts)

    def read(self, pod: Json, parameters: Mapping[str, str]) -> str:
        """Return a pod's log as the API server does.

        Args:
            pod: The pod.
            parameters: `sinceTime`, `tailLines` and `timestamps` of the request.

        Raises:
            RefusedError: If the container has not started.
        """
        state = container_status(pod).get("state", {})
        if not {"running", "terminated"} & state.keys():
            name = pod["metadata"]["name"]
            message = f'container "{_container(pod)}" in pod "{name}" is waiting to start'
            raise RefusedError(400, "BadRequest", message)
        # Clients send whole seconds, so they get some lines twice.
        since = parameters.get("sinceTime", "")
        lines = [
            (timestamp(moment, 9), text)
            for moment, text in self.lines.get(pod["metadata"]["uid"], ())
            if timestamp(moment, 9) >= since.removesuffix("Z")
        ]
        last = int(parameters.get("tailLines") or len(lines))
        dated = parameters.get("timestamps", "").lower() == "true"
        chosen = lines[len(lines) - min(last, len(lines)) :]
        return "".join(f"{when} {text}\n" if dated else f"{text}\n" for when, text in chosen)


def container_status(pod: Json) -> Json:
    """Return the status of a pod's container; empty before the kubelet reports one."""
    statuses: list[Json] = pod["status"].get("containerStatuses") or [{}]
    return statuses[0]


def is_running(pod: Json) -> bool:
    """Return whether a pod's container runs."""
    return "running" in container_status(pod).get("state", {})


def pod_of(job: Json, kind: str, index: int) -> Json:
    """Return a pending pod of a job's replica.

    Args:
        job: The job.
        kind: `Master` or `Worker`.
        index: Number of the replica within its kind.
    """
    name = str(job["metadata"]["name"])
    template = copy.deepcopy(job["spec"]["pytorchReplicaSpecs"][kind]["template"])
    labels = template.get("metadata", {}).get("labels", {}) | {
        "training.kubeflow.org/job-name": name,
        "training.kubeflow.org/operator-name": "pytorchjob-controller",
        "training.kubeflow.org/replica-type": kind.lower(),
        "training.kubeflow.org/replica-index": str(index),
    }
    if kind == "Master":
        labels["training.kubeflow.org/job-role"] = "master"
    owner = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "name": name,
        "uid": job["metadata"]["uid"],
        "controller": True,
    }
    return {
        "metadata": {
            "name": f"{name}-{kind.lower()}-{index}",
            "labels": labels,
            "annotations": template.get("metadata", {}).get("annotations", {}),
            "ownerReferences": [owner],
        },
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    }


def start_container(store: ObjectStore, pod: Json) -> None:
    """Set a pod running."""
    pod["status"] = {"phase": "Running", "conditions": [], "containerStatuses": []}
    set_container_state(store, pod, {"running": {"startedAt": timestamp(store.now())}})


def end_container(
    store: ObjectStore, pod: Json, code: int, *, reason: str, message: str = ""
) -> None:
    """Terminate a pod's container; the phase follows from the exit status."""
    finished = timestamp(store.now())
    end = {"exitCode": code, "reason": reason, "message": message, "finishedAt": finished}
    set_container_state(store, pod, {"terminated": end})
    pod["status"]["phase"] = "Failed" if code else "Succeeded"


def set_container_state(store: ObjectStore, pod: Json, state: Json) -> None:
    """Replace the state of a pod's container."""
    status = {
        "name": _container(pod),
        "image": "trainer",
        "imageID": "",
        "restartCount": 0,
        "ready": "running" in state,
        "state": state,
    }
    pod["status"]["containerStatuses"] = [status]
    store.touch(pod)


def _container(pod: Json) -> str:
    return str(pod["spec"]["containers"][0]["name"])


def create_event(
    store: ObjectStore, namespace: str, about: Json, what: tuple[str, str, str]
) -> None:
    """Record an event.

    Args:
        store: Where it is recorded.
        namespace: Its namespace.
        about: Reference of the object.
        what: Type (`Normal` or `Warning`), reason and message.
    """
    kind, reason, message = what
    event = {
        "metadata": {"generateName": f"{about['name']}."},
        "involvedObject": about,
        "type": kind,
        "reason": reason,
        "message": message,
    }
    store.create(Target("", "v1", "events", namespace), event)
