"""The template of TrainJobs, which the chart writes and Trainer merges with what the code sends."""

from typing import Any

import pytest
from kubernetes import client

from advgrpo.cluster.backends.trainjob import TrainJobs
from advgrpo.cluster.job_request import JobRequest, place_processes
from advgrpo.cluster.pod_template import TASK, pod_template
from advgrpo.cluster.settings import parse_cluster_settings
from helm.chart import Values
from tests.helm.releases import EVERYTHING, MINIMAL, objects, of_kind

REQUEST = JobRequest("train", "run", ("python", "-m", "worker"), processes=16)


def of_trainer(values: Values) -> Values:
    return {**values, "cluster": {**values.get("cluster", {}), "backend": "trainjob"}}


def merged_pod(runtime: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """Return the template of a job's pods, as Trainer 2.3 merges it."""
    (replicas,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    template: dict[str, Any] = replicas["template"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    trainer = job["spec"]["trainer"]
    container |= {key: trainer[key] for key in ("image", "command", "env")}
    container["resources"] = trainer["resourcesPerNode"]
    return template


@pytest.mark.parametrize(
    "values",
    [
        MINIMAL,
        EVERYTHING,
        {
            **MINIMAL,
            "cluster": {
                "runAsUser": 1_000_660_000,
                "priorityClass": "high",
                "serviceAccountToken": True,
                "nodeSelector": {"gpu": "h100"},
                "rdma": {"resource": "rdma/hca", "ipcLock": True},
            },
        },
    ],
)
def test_the_pods_equal_those_of_the_other_backend(values: Values) -> None:
    made = objects(of_trainer(values))
    (runtime,) = of_kind(made, "TrainingRuntime").values()
    (found,) = of_kind(made, "ConfigMap").values()
    settings = parse_cluster_settings(found["data"]["ADVGRPO_CLUSTER"])
    assert settings.training_runtime == runtime["metadata"]["name"]
    pod = merged_pod(runtime, TrainJobs().manifest(REQUEST, settings))
    wanted = client.ApiClient().sanitize_for_serialization(
        pod_template(
            REQUEST, place_processes(REQUEST.processes, settings), settings, container="node"
        )
    )
    # Trainer does not copy a job's labels to its pods.
    del wanted["metadata"]["labels"][TASK]
    assert pod["spec"].pop("restartPolicy") == "Never"
    assert pod == wanted


def test_a_failure_policy_tells_evictions_and_lasting_errors_from_others() -> None:
    values = {**MINIMAL, "cluster": {"maxRestarts": 4}}
    (runtime,) = of_kind(objects(of_trainer(values)), "TrainingRuntime").values()
    jobset = runtime["spec"]["template"]["spec"]
    # Trainer 2.3.0 would run a failed job again after that time.
    assert "ttlSecondsAfterFinished" not in jobset
    assert jobset["failurePolicy"]["maxRestarts"] == 4
    actions = [rule["action"] for rule in jobset["failurePolicy"]["rules"]]
    assert actions == ["RestartJobSetAndIgnoreMaxRestarts", "FailJobSet"]
    job = jobset["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    evicted, permanent = job["podFailurePolicy"]["rules"]
    assert evicted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    # From 128 on, a retry may succeed.
    assert permanent["onExitCodes"]["values"] == list(range(1, 128))


def test_there_is_no_template_without_the_kind() -> None:
    assert of_kind(objects(MINIMAL), "TrainingRuntime") == {}
    assert of_kind(
        objects({**MINIMAL, "cluster": {"backend": "pytorchjob"}}), "TrainingRuntime"
    ) == {}  # fmt: skip
