"""Kubeflow's PyTorchJob, version 1.

Source:
    Kubeflow training-operator 1.9, `pkg/apis/kubeflow.org/v1`, `pkg/controller.v1/common`.
"""

from kubeflow.training import (
    KubeflowOrgV1PyTorchJob,
    KubeflowOrgV1PyTorchJobSpec,
    KubeflowOrgV1ReplicaSpec,
    KubeflowOrgV1RunPolicy,
)
from kubernetes import client

from advgrpo.cluster.api import Json
from advgrpo.cluster.backends.base import JobState
from advgrpo.cluster.job_request import JobRequest, shape_of
from advgrpo.cluster.pod_template import labels_of, pod_template
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings

_BACKSTOP_SECONDS = 900
"""How much later than the launcher the operator ends a job that takes too long."""

_JOB_NAME = "training.kubeflow.org/job-name"
_QUEUE = "kueue.x-k8s.io/queue-name"


class PyTorchJobs:
    """A job of one master and further workers, each a node."""

    resource = Resource("kubeflow.org", "v1", "pytorchjobs")

    def manifest(self, work: JobRequest, settings: ClusterSettings) -> Json:
        """Write the job, without what belongs to one attempt to run it.

        Raises:
            ConfigError: If the settings do not fit the work.
        """
        shape = shape_of(work.processes, settings)
        template = pod_template(work, shape, settings)
        replicas = {"Master": _replicas(1, template)}
        if shape.nodes > 1:
            replicas["Worker"] = _replicas(shape.nodes - 1, template)
        labels = labels_of(work) | ({_QUEUE: settings.queue} if settings.queue else {})
        job = KubeflowOrgV1PyTorchJob(
            api_version=f"{self.resource.group}/{self.resource.version}",
            kind="PyTorchJob",
            metadata=client.V1ObjectMeta(name=work.name, labels=labels),
            spec=KubeflowOrgV1PyTorchJobSpec(
                nproc_per_node=str(shape.processes_per_node),
                pytorch_replica_specs=replicas,
                run_policy=_run_policy(settings),
            ),
        )
        written: Json = client.ApiClient().sanitize_for_serialization(job)
        return written

    def state(self, job: Json) -> JobState:
        """Read where the job stands from its conditions."""
        holds = {one["type"] for one in _conditions(job) if one["status"] == "True"}
        if "Succeeded" in holds:
            return JobState.SUCCEEDED
        if "Failed" in holds:
            return JobState.FAILED
        if (job["spec"].get("runPolicy") or {}).get("suspend"):
            return JobState.QUEUED
        return JobState.RUNNING if "Running" in holds else JobState.STARTING

    def started_at(self, job: Json) -> str:
        """Give the time at which it left its queue, as Kubernetes writes it; empty before."""
        return str((job.get("status") or {}).get("startTime") or "")

    def end_message(self, job: Json) -> str:
        """Give what the operator says of its end; empty before."""
        ends = [one for one in _conditions(job) if one["type"] in {"Succeeded", "Failed"}]
        return str(ends[-1].get("message", "")) if ends else ""

    def pod_selector(self, name: str) -> str:
        """Give the label selector of a job's pods."""
        return f"{_JOB_NAME}={name}"

    def first_pod(self, name: str) -> str:
        """Name the pod with rank 0."""
        return f"{name}-master-0"


def _replicas(count: int, template: client.V1PodTemplateSpec) -> KubeflowOrgV1ReplicaSpec:
    # An exit status below 128 would come again; from 128 on the operator starts the pod again.
    return KubeflowOrgV1ReplicaSpec(replicas=count, restart_policy="ExitCode", template=template)


def _run_policy(settings: ClusterSettings) -> KubeflowOrgV1RunPolicy:
    return KubeflowOrgV1RunPolicy(
        active_deadline_seconds=settings.deadline_seconds + _BACKSTOP_SECONDS,
        # With restarts by exit status the operator does not count: the launcher does.
        backoff_limit=settings.restarts,
        # Ended pods stay: they say why.
        clean_pod_policy="Running",
        ttl_seconds_after_finished=settings.ttl_seconds_after_finished,
    )


def _conditions(job: Json) -> list[Json]:
    conditions: list[Json] = (job.get("status") or {}).get("conditions") or []
    return conditions
