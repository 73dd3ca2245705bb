"""Admission of pods by dry runs: Pod Security, quotas, limits and ranges of user ids."""

from collections.abc import Iterator

from kubernetes import client

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_errors import RejectedError
from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.checks.check import Check, run_check
from advgrpo.cluster.job_request import JobRequest, Placement
from advgrpo.cluster.pod_template import pod_template
from advgrpo.cluster.refusals import refusal_repair
from advgrpo.cluster.resources import PODS
from advgrpo.cluster.settings import ClusterSettings

_OTHER_REPAIR = "change what the message names: the namespace's policy, or the chart's values"


def check_pods(
    api: Api, backend: JobBackend, settings: ClusterSettings, task_pod: Json | None
) -> Iterator[Check]:
    """Check that the API server admits the pods of tasks and jobs, without creating them.

    Args:
        api: Client of the API server.
        backend: Kind of job.
        settings: Settings of jobs.
        task_pod: Metadata and spec of a task's pod; None skips it.
    """
    if task_pod is not None:
        yield _check("pod of a task", api, task_pod, backend)
    pod = _job_pod(backend, settings)
    check = _check("pod of a job", api, pod, backend)
    yield check
    if check.state == "OK" and (added := backend.init_container) is not None:
        pod["spec"]["initContainers"] = [added]
        worker = _check("pod of a job's worker", api, pod, backend)
        # Not a failure: the operator may be configured, which only its administrator can read.
        if worker.state == "FAIL":
            repair = f"jobs of one node are not affected; else {worker.repair}"
            worker = Check(worker.name, "SKIP", worker.found, repair)
        yield worker


def _job_pod(backend: JobBackend, settings: ClusterSettings) -> Json:
    processes = settings.processes_per_node or settings.gpus_per_node or 1
    placement = Placement(1, processes, processes if settings.gpus_per_node else 0)
    request = JobRequest(task="doctor", run_key="", command=("true",), processes=processes)
    template = pod_template(request, placement, settings, container=backend.container)
    pod: Json = client.ApiClient().sanitize_for_serialization(template)
    return pod


def _check(name: str, api: Api, pod: Json, backend: JobBackend) -> Check:
    # With a name: a rejection quotes it.
    metadata = {**pod["metadata"], "name": "advgrpo-dry-run"}
    body = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": metadata}

    def query() -> Check:
        try:
            api.create(PODS, body, dry_run=True)
        except RejectedError as error:
            # A webhook without support for dry runs rejects all of them.
            if "dry run" in error.message:
                return Check(name, "SKIP", error.message)
            repair = refusal_repair(error.message, backend.refusals)
            if not repair and "exceeded quota" in error.message:
                return Check(name, "SKIP", f"jobs wait until there is room: {error.message}")
            return Check(name, "FAIL", error.message, repair or _OTHER_REPAIR)
        return Check(name, "OK", "the API server admits it (dry run)")

    return run_check(name, query)
