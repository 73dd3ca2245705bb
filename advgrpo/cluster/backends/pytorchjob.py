"""Kubeflow's PyTorchJob, version 1.

Source:
    Kubeflow training-operator 1.9, `pkg/apis/kubeflow.org/v1`, `pkg/controller.v1/common`;
    torchrun's environment in each pod: `pkg/controller.v1/pytorch/envvar.go`.
"""

import re
from collections.abc import Mapping

from kubeflow.training import (
    KubeflowOrgV1PyTorchJob,
    KubeflowOrgV1PyTorchJobSpec,
    KubeflowOrgV1ReplicaSpec,
    KubeflowOrgV1RunPolicy,
)
from kubernetes import client

from advgrpo.cluster.api import Json
from advgrpo.cluster.backends.base import JobState, JobStatus
from advgrpo.cluster.job_request import JobRequest, place_processes
from advgrpo.cluster.pod_template import job_labels, pod_template
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings

_BACKSTOP_SECONDS = 900
"""How much later than the launcher the operator ends a job that exceeds its deadline."""

INIT_CONTAINER_TEMPLATE = """\
- name: init-pytorch
  image: {{.InitContainerImage}}
  command:
    - sh
    - -c
    - |
      for i in $(seq {{.MaxTries}}); do
        nslookup {{.MasterAddr}} | grep ^Name && exit 0
        sleep 2
      done
      exit 1
  resources:
    requests: {cpu: 50m, memory: 10Mi}
    limits: {cpu: 100m, memory: 20Mi}
  securityContext:
    allowPrivilegeEscalation: false
    runAsNonRoot: true
    runAsUser: 65534
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
"""
"""The operator's init container of workers, with which they meet the level "restricted"."""

INIT_CONTAINER_REPAIR = (
    "give the training operator a template for its init container: put this text into a ConfigMap, "
    "mount it into the operator's pod, and pass its path with the operator's option "
    "--pytorch-init-container-template-file:\n" + INIT_CONTAINER_TEMPLATE
)

INIT_CONTAINER: Json = {
    "name": "init-pytorch",
    "image": "alpine:3.10",
    "resources": {
        "limits": {"cpu": "100m", "memory": "20Mi"},
        "requests": {"cpu": "50m", "memory": "10Mi"},
    },
}
"""The init container that the operator by default adds to the pods of workers."""

_LABEL = "training.kubeflow.org"
_EXITED = re.compile(r"Pod: [^.\s]+\.(?P<pod>\S+) exited with code (?P<code>\d+)")


class PyTorchJobs:
    """Jobs of one master and further workers, one pod per node."""

    resource = Resource(
        "kubeflow.org", "v1", "pytorchjobs", installed_by="Kubeflow's training operator 1.9"
    )
    # The operator refuses a job without a container of this name.
    container = "pytorch"
    # The operator adds this init container to workers, by default without a security context.
    refusals: Mapping[str, str] = {"init-pytorch": INIT_CONTAINER_REPAIR}
    init_container: Json | None = INIT_CONTAINER
    # With restartPolicy ExitCode the operator does not count restarts against backoffLimit.
    limits_restarts = False
    requires: tuple[Resource, ...] = ()
    templates: tuple[Resource, ...] = ()

    def manifest(self, request: JobRequest, settings: ClusterSettings) -> Json:
        """Return the job's object.

        Raises:
            ConfigError: If the settings do not fit the request.
        """
        placement = place_processes(request.processes, settings)
        template = pod_template(request, placement, settings, container=self.container)
        # The operator demands exactly one master, which is the node of rank 0.
        replicas = {"Master": _replicas(1, template)}
        if placement.nodes > 1:
            replicas["Worker"] = _replicas(placement.nodes - 1, template)
        job = KubeflowOrgV1PyTorchJob(
            api_version=f"{self.resource.group}/{self.resource.version}",
            kind="PyTorchJob",
            metadata=client.V1ObjectMeta(name=request.name, labels=job_labels(request, settings)),
            spec=KubeflowOrgV1PyTorchJobSpec(
                # A string in this API, which also knows "auto" and "gpu".
                nproc_per_node=str(placement.processes_per_node),
                pytorch_replica_specs=replicas,
                run_policy=_run_policy(settings),
            ),
        )
        # Drops fields that are None and renames the rest to camelCase, which to_dict() does not.
        manifest: Json = client.ApiClient().sanitize_for_serialization(job)
        return manifest

    def status(self, job: Json) -> JobStatus:
        """Read a job's status from its conditions."""
        status = job.get("status") or {}
        conditions = status.get("conditions") or []
        true = {one["type"] for one in conditions if one["status"] == "True"}
        if "Succeeded" in true:
            state = JobState.SUCCEEDED
        elif "Failed" in true:
            state = JobState.FAILED
        elif ((job.get("spec") or {}).get("runPolicy") or {}).get("suspend"):
            state = JobState.QUEUED
        else:
            state = JobState.RUNNING if "Running" in true else JobState.STARTING
        ends = [one for one in conditions if one["type"] in {"Succeeded", "Failed"}]
        message = str(ends[-1].get("message", "")) if ends else ""
        return JobStatus(
            state=state,
            started_at=str(status.get("startTime") or ""),
            ended_at=str(status.get("completionTime") or ""),
            message=message,
            # The condition's reason is the same for every failure.
            deadline_exceeded="longer than specified deadline" in message,
        )

    def pod_selector(self, job: Json) -> str:
        """Return the label selector of a job's pods."""
        return f"{_LABEL}/job-name={job['metadata']['name']}"

    def owns(self, job: Json, pod: Json) -> bool:
        """Return whether a pod is of this job and not of an earlier one of the same name."""
        # The label has the job's name only, which an earlier job had as well.
        owners = pod["metadata"].get("ownerReferences") or ()
        return job["metadata"]["uid"] in {owner["uid"] for owner in owners}

    def rank(self, pod: Json) -> int:
        """Return the node rank of a pod: the master's is 0."""
        labels = pod["metadata"]["labels"]
        # The operator numbers each type of replica from 0, and makes the master rank 0.
        index = int(labels[f"{_LABEL}/replica-index"])
        return index if labels[f"{_LABEL}/replica-type"] == "master" else index + 1

    def event_selectors(self, job: Json) -> tuple[str, ...]:
        """Return the field selector of a job's events."""
        return (f"involvedObject.uid={job['metadata']['uid']}",)

    def read_exit(self, event: Json) -> tuple[str, int] | None:
        """Read a pod's name and exit status from the operator's event about its end."""
        # The event has no field for the status: only its text has it.
        match = _EXITED.search(event.get("message") or "")
        return (match["pod"], int(match["code"])) if match else None


def _replicas(count: int, template: client.V1PodTemplateSpec) -> KubeflowOrgV1ReplicaSpec:
    # With ExitCode the operator restarts a pod only for statuses from 128 on, which advgrpo uses
    # for errors that a retry may fix. OnFailure would restart on a configuration error as well.
    return KubeflowOrgV1ReplicaSpec(replicas=count, restart_policy="ExitCode", template=template)


def _run_policy(settings: ClusterSettings) -> KubeflowOrgV1RunPolicy:
    return KubeflowOrgV1RunPolicy(
        active_deadline_seconds=settings.deadline_seconds + _BACKSTOP_SECONDS,
        # With restartPolicy ExitCode the operator does not count restarts: the launcher does.
        backoff_limit=settings.max_restarts,
        # Pods that have ended must stay: their statuses and logs tell why.
        clean_pod_policy="Running",
        ttl_seconds_after_finished=settings.ttl_seconds_after_finished,
    )
