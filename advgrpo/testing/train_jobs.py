"""Fake TrainJobs: what Kubeflow Trainer, JobSet and the Job controller do to one.

Source:
    Kubeflow Trainer 2.3, `pkg/runtime/framework/plugins/jobset`; JobSet, `pkg/controllers`;
    Kubernetes 1.36, `pkg/controller/job`.
"""

import copy
from typing import ClassVar

from advgrpo.cluster.backends.trainjob import RUNTIMES, TrainJobs
from advgrpo.cluster.quantities import canonical_quantity
from advgrpo.cluster.resources import Resource
from advgrpo.testing.cluster_objects import Json, Target, timestamp
from advgrpo.testing.pods import create_event, end_container, start_container
from advgrpo.testing.training_jobs import FakeJob

_JOBSET = "jobset.sigs.k8s.io"


class FakeTrainJob(FakeJob):
    """A TrainJob with its JobSet, whose pods are restarted together.

    It has the failure policy of the chart's runtime: an exit status below 128 fails it, any other
    failure restarts it, and evictions do not count.
    """

    resource: ClassVar = TrainJobs.resource
    further: ClassVar[tuple[Resource, ...]] = (*TrainJobs.requires, RUNTIMES)
    kind: ClassVar = "TrainJob"
    suspended: ClassVar[Json] = {"spec": {"suspend": True}}
    max_restarts: ClassVar = 2

    restarts = 0
    """Restarts that count against the limit."""

    @property
    def _first_failed(self) -> str:
        return f"(first failed job: {self.name}-node-0)"

    @property
    def pods(self) -> list[Json]:
        """Pods of the job that exist."""
        return [pod for pod in self._store.all("", "pods", self.namespace) if self._owns(pod)]

    def pod(self, name: str = "master-0") -> Json | None:
        """Return the pod of an index: 0 is `master-0`, 1 is `worker-0`."""
        prefix = f"{self.name}-node-0-{_index(name)}-"
        found = [pod for pod in self.pods if pod["metadata"]["name"].startswith(prefix)]
        return found[-1] if found else None

    def suspend(self) -> None:
        """Suspend the job, as Kueue does: its pods are removed."""
        self.body["spec"] |= {"suspend": True, "runtimePatches": [_kueue_patch({})]}
        for pod in self.pods:
            self._store.remove(pod)
        self._restarts.clear()
        self._set_ready(0)
        self._set("Suspended", "Suspended", "TrainJob is suspended")

    def resume(self) -> None:
        """Admit the job from its queue, to the nodes of a flavor.

        The API server refuses it if Kueue would write the trainer, which may not change, in another
        form: without empty values, and with quantities as Kubernetes writes them.
        """
        trainer = self.body["spec"]["trainer"]
        amounts = [q for part in trainer["resourcesPerNode"].values() for q in part.values()]
        if any(one.get("value") == "" for one in trainer["env"]) or not all(
            q == canonical_quantity(q) for q in amounts
        ):
            self.record_event("Stopped", "spec.trainer: Invalid value: field is immutable")
            return
        template = {"spec": {"nodeSelector": {"gpu": "h100"}}}
        node = {"name": "node", "template": {"spec": {"template": template}}}
        patch = _kueue_patch({"replicatedJobs": [node]})
        self.body["spec"] |= {"suspend": False, "runtimePatches": [patch]}
        self._set("Suspended", "Resumed", "TrainJob is resumed", status="False")

    def add_pods(self) -> None:
        """Create the missing pods, which wait for nodes."""
        for index in range(self.body["spec"]["trainer"]["numNodes"]):
            name = f"worker-{index - 1}" if index else "master-0"
            if name in self.refused:
                self.record_event("FailedCreate", f"Error creating: {self.refused[name]}")
            elif self.pod(name) is None:
                self._add_pod("Worker" if index else "Master", max(index - 1, 0))

    def run(self) -> None:
        """Start the containers of all pods."""
        for pod in self.pods:
            start_container(self._store, pod)
        self._set_ready(1)

    def restart_pod(self, name: str) -> None:
        """Replace all pods by new, running ones: JobSet recreates the Job."""
        del name
        for pod in self.pods:
            self._store.remove(pod)
        self.add_pods()
        self.run()

    def exit_pod(
        self, code: int, *, pod: str = "master-0", reason: str = "Error", message: str = ""
    ) -> None:
        """Terminate a pod's container; the failure policies decide what follows."""
        found = self.pod(pod)
        if found is None:
            return
        end_container(self._store, found, code, reason=reason, message=message)
        if self.neglected or self._restarts:
            return
        self._set_ready(0)
        if code < 128:
            name = f"{self.namespace}/{found['metadata']['name']}"
            text = f"Container node for pod {name} failed with exit code {code} matching FailJob"
            self.record_event("PodFailurePolicy", f"{text} rule at index 1")
            self._finish(
                "Failed",
                "FailJobSetFailurePolicyAction",
                f"applying FailJobSet failure policy action {self._first_failed}",
            )
            return
        self.record_event("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        if self.restarts >= self.max_restarts:
            self._finish(
                "Failed",
                "ReachedMaxRestarts",
                f"jobset failed due to reaching max number of restarts {self._first_failed}",
            )
            return
        self.restarts += 1
        self._restart_later(pod)

    def evict(self, *, pod: str = "master-0", reason: str = "Evicted", message: str = "") -> None:
        """Evict a pod from its node; all are restarted, which does not count."""
        found = self.pod(pod)
        if found is None:
            return
        disrupted = {"type": "DisruptionTarget", "status": "True", "reason": reason}
        found["status"] |= {"phase": "Failed", "conditions": [disrupted | {"message": message}]}
        found["status"].pop("containerStatuses", None)
        self._store.touch(found)
        if not self._restarts:
            self._set_ready(0)
            text = f"Pod {self.namespace}/{found['metadata']['name']} has condition"
            self.record_event(
                "PodFailurePolicy", f"{text} DisruptionTarget matching FailJob rule at index 0"
            )
            self._restart_later(pod)

    def succeed(self) -> None:
        """Let all pods complete, and with them the job."""
        self.add_pods()
        for pod in self.pods:
            end_container(self._store, pod, 0, reason="Completed")
        self._finish("Complete", "AllJobsCompleted", "jobset completed successfully")

    def fail(self, message: str = "jobset failed due to one or more job failures") -> None:
        """Fail the job."""
        self._finish("Failed", "FailedJobs", message)

    def record_event(self, reason: str, message: str, *, kind: str = "Warning") -> None:
        """Record an event about the Job of the pods."""
        about = {"kind": "Job", "name": f"{self.name}-node-0"}
        create_event(self._store, self.namespace, about, (kind, reason, message))

    def _owns(self, pod: Json) -> bool:
        owners = {owner["uid"] for owner in pod["metadata"].get("ownerReferences", ())}
        return f"{self.uid}-node-0" in owners

    def _add_pod(self, kind: str, index: int) -> Json:
        rank = index if kind == "Master" else index + 1
        trainer = copy.deepcopy(self.body["spec"]["trainer"])
        owners = [
            {"kind": "Job", "name": f"{self.name}-node-0", "uid": f"{self.uid}-node-0"},
            # Not in Kubernetes, where the Job has this owner through its JobSet; it lets the fake
            # delete the pods with the TrainJob.
            {"kind": self.kind, "name": self.name, "uid": self.uid},
        ]
        body = {
            "metadata": {
                "generateName": f"{self.name}-node-0-{rank}-",
                "labels": {
                    f"{_JOBSET}/jobset-name": self.name,
                    f"{_JOBSET}/replicatedjob-name": "node",
                    "batch.kubernetes.io/job-completion-index": str(rank),
                },
                "ownerReferences": owners,
            },
            "spec": {"containers": [{"name": "node", "command": trainer["command"]}]},
            "status": {"phase": "Pending"},
        }
        return self._store.create(Target("", "v1", "pods", self.namespace), body)

    def _restart_later(self, pod: str) -> None:
        if not self.neglected:
            self._restarts.append((self._store.now() + self._operator.restart_seconds, pod))

    def _finish(self, kind: str, reason: str, message: str) -> None:
        if self.neglected:
            return
        self.end = "Succeeded" if kind == "Complete" else kind
        self._set(kind, reason, message)
        # The Job controller deletes the pods that still run.
        for pod in self.pods:
            if pod["status"]["phase"] not in {"Succeeded", "Failed"}:
                self._store.remove(pod)

    def _condition(self, kind: str, reason: str, message: str, *, status: str = "True") -> None:
        # The conditions of PyTorchJobs, which this kind does not have.
        del kind, reason, message, status
        self.body.setdefault("status", {})

    def _set(self, kind: str, reason: str, message: str, *, status: str = "True") -> None:
        conditions = self.body.setdefault("status", {}).setdefault("conditions", [])
        conditions[:] = [one for one in conditions if one["type"] != kind]
        condition = {"type": kind, "status": status, "reason": reason, "message": message}
        conditions.append(condition | {"lastTransitionTime": timestamp(self._store.now())})
        self._store.touch(self.body)

    def _set_ready(self, count: int) -> None:
        self.body["status"]["jobsStatus"] = [{"name": "node", "ready": count}]
        self._store.touch(self.body)


def _index(name: str) -> int:
    kind, _, index = name.partition("-")
    return 0 if kind == "master" else int(index) + 1


def _kueue_patch(jobset: Json) -> Json:
    """Return what Kueue writes to `runtimePatches`, from its webhook on.

    Source:
        Kueue, main of 2026-08-22, `pkg/controller/jobs/trainjob`.
    """
    template = {"template": {"spec": jobset}}
    return {"manager": "kueue.x-k8s.io/manager", "trainingRuntimeSpec": template}
