"""Kubeflow Trainer's TrainJob, version 1alpha1.

The pods' template is a TrainingRuntime of the chart, in the namespace of the jobs; a TrainJob names
it and sets image, command, environment, resources and size. Only fields are used that kept their
names since Trainer 2.0: overrides of the template were renamed in 2.1 and again in 2.2.

Source:
    Kubeflow Trainer 2.3, `pkg/controller/trainjob_controller.go`, `pkg/runtime/framework/plugins`
    (`jobset`, `torch`); JobSet 0.12, `pkg/controllers/failure_policy.go`.
"""

import re
from collections.abc import Mapping

from kubernetes import client

from advgrpo.cluster.api import Json
from advgrpo.cluster.backends.base import JobState, JobStatus
from advgrpo.cluster.job_request import JobRequest, place_processes
from advgrpo.cluster.pod_template import job_labels, pod_template
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings

RUNTIMES = Resource(
    "trainer.kubeflow.org", "v1alpha1", "trainingruntimes", installed_by="Kubeflow Trainer 2.3"
)

TTL = "advgrpo/ttl-seconds-after-finished"
"""Annotation: when the janitor deletes a finished job, because TrainJob has no field for it."""

_BACKSTOP_SECONDS = 900
"""How much later than the launcher the controller ends a job that exceeds its deadline."""

_REPLICAS = "node"
"""Name of the runtime's replicated job, of which Trainer sets the size."""

_JOBSET = "jobset.sigs.k8s.io"
_INDEX = "batch.kubernetes.io/job-completion-index"
_EXITED = re.compile(r"for pod [^/\s]+/(?P<pod>\S+) failed with exit code (?P<code>\d+)")


class TrainJobs:
    """Jobs of equal pods, one per node, which a JobSet restarts together."""

    resource = Resource(
        "trainer.kubeflow.org", "v1alpha1", "trainjobs", installed_by="Kubeflow Trainer 2.3"
    )
    # Trainer sets command and environment of the container of this name only.
    container = "node"
    # Trainer adds no container.
    refusals: Mapping[str, str] = {}
    init_container: Json | None = None
    # The runtime's failure policy does, and knows evictions that end between two polls.
    limits_restarts = True
    requires: tuple[Resource, ...] = (
        Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", installed_by="JobSet 0.12 or later"),
    )
    templates: tuple[Resource, ...] = (RUNTIMES,)

    def manifest(self, request: JobRequest, settings: ClusterSettings) -> Json:
        """Return the job's object.

        Raises:
            ConfigError: If the settings do not fit the request.
        """
        placement = place_processes(request.processes, settings)
        template = client.ApiClient().sanitize_for_serialization(
            pod_template(request, placement, settings, container=self.container)
        )
        (node,) = template["spec"]["containers"]
        return {
            "apiVersion": f"{self.resource.group}/{self.resource.version}",
            "kind": "TrainJob",
            "metadata": {
                "name": request.name,
                "labels": job_labels(request, settings),
                "annotations": {TTL: str(settings.ttl_seconds_after_finished)},
            },
            "spec": {
                "runtimeRef": {
                    "apiGroup": RUNTIMES.group,
                    "kind": "TrainingRuntime",
                    "name": settings.training_runtime,
                },
                "trainer": {
                    "numNodes": placement.nodes,
                    # A number in this API.
                    "numProcPerNode": placement.processes_per_node,
                    "image": node["image"],
                    "command": node["command"],
                    "env": node["env"],
                    "resourcesPerNode": node["resources"],
                },
                "activeDeadlineSeconds": settings.deadline_seconds + _BACKSTOP_SECONDS,
            },
        }

    def status(self, job: Json) -> JobStatus:
        """Read a job's status from its conditions, and from the counts of its JobSet."""
        status = job.get("status") or {}
        conditions = {one["type"]: one for one in status.get("conditions") or ()}
        true = {name for name, one in conditions.items() if one["status"] == "True"}
        ready = any(
            one.get("ready") for one in status.get("jobsStatus") or () if one["name"] == _REPLICAS
        )
        if "Complete" in true:
            state = JobState.SUCCEEDED
        elif "Failed" in true:
            state = JobState.FAILED
        elif (job.get("spec") or {}).get("suspend"):
            state = JobState.QUEUED
        else:
            state = JobState.RUNNING if ready else JobState.STARTING
        end = conditions.get("Complete" if state is JobState.SUCCEEDED else "Failed", {})
        resumed = conditions.get("Suspended", {})
        return JobStatus(
            state=state,
            # The time from which the controller counts the deadline; the status has no start time.
            started_at=str(
                resumed.get("lastTransitionTime") or job["metadata"].get("creationTimestamp") or ""
            ),
            ended_at=str(end.get("lastTransitionTime") or "") if state.is_end else "",
            message=str(end.get("message") or ""),
            deadline_exceeded=end.get("reason") == "DeadlineExceeded",
        )

    def pod_selector(self, job: Json) -> str:
        """Return the label selector of a job's pods."""
        name = job["metadata"]["name"]
        return f"{_JOBSET}/jobset-name={name},{_JOBSET}/replicatedjob-name={_REPLICAS}"

    def owns(self, job: Json, pod: Json) -> bool:
        """Return whether a pod is not older than the job: it names neither the job nor its uid."""
        made, started = (str(one["metadata"]["creationTimestamp"]) for one in (pod, job))
        return made >= started

    def rank(self, pod: Json) -> int:
        """Return the node rank of a pod: its index, as in `PET_NODE_RANK`."""
        meta = pod["metadata"]
        # Kubernetes before 1.28 has only the annotation.
        return int((meta.get("labels") or {}).get(_INDEX) or meta["annotations"][_INDEX])

    def event_selectors(self, job: Json) -> tuple[str, ...]:
        """Return the field selectors of events about a job, its JobSet and the Job of its pods."""
        name = job["metadata"]["name"]
        return f"involvedObject.name={name}", f"involvedObject.name={name}-{_REPLICAS}-0"

    def read_exit(self, event: Json) -> tuple[str, int] | None:
        """Read a pod's name and exit status from the event about its Job's failure policy."""
        match = _EXITED.search(event.get("message") or "")
        return (match["pod"], int(match["code"])) if match else None
