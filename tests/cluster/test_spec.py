import json
from typing import Any

import pytest

from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.job_request import JobRequest, place_processes
from advgrpo.cluster.quantities import canonical_quantity
from advgrpo.cluster.settings import ClusterSettings, parse_cluster_settings
from advgrpo.errors import ConfigError

COMMAND = (
    "python",
    "-u",
    "-m",
    "advgrpo.runtime.worker",
    "--pod",
    "train",
    "m:train",
    "s3://b/folder",
)


def manifest(processes: int = 16, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    settings = ClusterSettings.model_validate({"image": "registry.example/trainer:1"} | changes)
    return PyTorchJobs().manifest(JobRequest("train", "key", COMMAND, processes), settings)


def pod(job: dict[str, Any], kind: str = "Master") -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["pytorchReplicaSpecs"][kind]["template"]["spec"]
    return found


def container(job: dict[str, Any]) -> dict[str, Any]:
    (one,) = pod(job)["containers"]
    return dict(one)


def environment(job: dict[str, Any]) -> dict[str, Any]:
    entries = container(job)["env"]
    return {one["name"]: one.get("value", one.get("valueFrom", "")) for one in entries}


def test_jobs_log_in_to_mlflow_as_the_plugin_of_kubeflow_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = environment(manifest())
    config = {"parentRunId": "1", "credentialSecretRef": {"tokenKey": "token"}}
    monkeypatch.setenv("KFP_MLFLOW_CONFIG", json.dumps(config))
    monkeypatch.setenv("MLFLOW_RUN_ID", "2")
    plugins = environment(manifest())
    secret = {"name": "kfp-mlflow-credentials", "key": "token", "optional": True}
    assert plugins == own | {"MLFLOW_TRACKING_TOKEN": {"secretKeyRef": secret}}
    # A new run of the plugin, after a retry, must not make another job.
    monkeypatch.setenv("MLFLOW_RUN_ID", "3")
    assert environment(manifest()) == plugins
    assert pod(manifest(service_account_token=True))["automountServiceAccountToken"]


@pytest.mark.parametrize(
    ("processes", "changes", "nodes", "each", "gpus"),
    [
        (32, {}, 4, 8, 8),
        (8, {}, 1, 8, 8),
        (3, {}, 1, 3, 3),
        (1, {}, 1, 1, 1),
        (6, {"gpus_per_node": 2}, 3, 2, 2),
        (4, {"gpus_per_node": 8, "processes_per_node": 4}, 1, 4, 4),
        (4, {"gpus_per_node": 0, "processes_per_node": 2}, 2, 2, 0),
        (3, {"gpus_per_node": 0}, 3, 1, 0),
    ],
)
def test_processes_fill_whole_nodes(
    processes: int, changes: dict[str, Any], nodes: int, each: int, gpus: int
) -> None:
    job = manifest(processes, **changes)
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert sum(one["replicas"] for one in replicas.values()) == nodes
    assert replicas["Master"]["replicas"] == 1
    # The CRD wants a string.
    assert job["spec"]["nprocPerNode"] == str(each)
    limits = container(job)["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == (str(gpus) if gpus else None)


def test_processes_that_do_not_fill_nodes_are_refused_with_valid_numbers() -> None:
    settings = ClusterSettings(image="x")
    with pytest.raises(ConfigError, match="processes=20 do not fill nodes of 8") as error:
        place_processes(20, settings)
    assert "up to 8, or a multiple of it such as 16 or 24" in error.value.repair
    with pytest.raises(ConfigError, match="more than the 4 GPUs"):
        place_processes(8, ClusterSettings(image="x", gpus_per_node=4, processes_per_node=8))


def test_all_pods_meet_pod_security_restricted() -> None:
    job = manifest(16, rdma={"resource": "rdma/hca"})
    for kind in ("Master", "Worker"):
        spec = pod(job, kind)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert {key for volume in spec["volumes"] for key in volume} == {"name", "emptyDir"}
        for one in spec["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
            }


def test_ipc_lock_is_only_added_if_requested() -> None:
    job = manifest(16, rdma={"resource": "rdma/hca", "count": 8, "ipc_lock": True})
    assert container(job)["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["IPC_LOCK"],
    }
    assert container(job)["resources"]["limits"]["rdma/hca"] == "8"


def test_writable_paths_are_volumes() -> None:
    job = manifest(16, node={"shared_memory": "16Gi", "ephemeral_storage": "200Gi"})
    mounts = {one["mountPath"]: one["name"] for one in container(job)["volumeMounts"]}
    volumes = {one["name"]: one for one in pod(job)["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert volumes[mounts["/cache"]]["emptyDir"] == {"sizeLimit": "200Gi"}
    assert environment(job)["ADVGRPO_CACHE"] == "/cache"
    assert environment(job)["ADVGRPO_CACHE_GIB"] == "160.00"
    assert environment(job)["HOME"] in mounts
    job = manifest(cache_claim="shared", cache_size="1Ti")
    assert environment(job)["ADVGRPO_CACHE_GIB"] == "819.20"
    claimed = {one["name"]: one for one in pod(job)["volumes"]}
    assert claimed["cache"]["persistentVolumeClaim"] == {"claimName": "shared"}


def test_secrets_are_referenced_and_not_copied() -> None:
    found = environment(manifest())
    assert found["AWS_SECRET_ACCESS_KEY"] == {
        "secretKeyRef": {
            "name": "advgrpo-s3", "key": "AWS_SECRET_ACCESS_KEY", "optional": True,
        }
    }  # fmt: skip
    assert found["MLFLOW_TRACKING_PASSWORD"]["secretKeyRef"]["name"] == "advgrpo-mlflow"
    assert container(manifest())["envFrom"] == [{"configMapRef": {"name": "advgrpo"}}]


def test_a_jobs_pod_runs_the_task_and_starts_no_job() -> None:
    job = manifest()
    # Otherwise `run_task` would start another job.
    assert environment(job)["ADVGRPO_CLUSTER"] == ""
    assert container(job)["command"] == list(COMMAND)
    assert container(job)["name"] == "pytorch"


def test_the_chart_settings_reach_the_pods() -> None:
    job = manifest(
        image_pull_secrets=["registry"],
        node_selector={"gpu": "h100"},
        tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoExecute",
                      "tolerationSeconds": 60}],
        priority_class="high",
        queue="gpus",
        environment={"NCCL_SOCKET_IFNAME": "eth0"},
    )  # fmt: skip
    spec = pod(job)
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["nodeSelector"] == {"gpu": "h100"}
    assert spec["tolerations"] == [
        {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
    ]
    assert spec["priorityClassName"] == "high"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert environment(job)["NCCL_SOCKET_IFNAME"] == "eth0"
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    assert template["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}


def test_a_job_has_labels_and_limits() -> None:
    job = manifest(deadline_seconds=1000, max_restarts=4, ttl_seconds_after_finished=60)
    assert job["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "advgrpo"
    assert job["metadata"]["labels"]["advgrpo/task"] == "train"
    policy = job["spec"]["runPolicy"]
    assert policy == {
        "activeDeadlineSeconds": 1900,
        "backoffLimit": 4,
        "cleanPodPolicy": "Running",
        "ttlSecondsAfterFinished": 60,
    }
    for replica in job["spec"]["pytorchReplicaSpecs"].values():
        # The operator restarts pods with status 128 and above; others would fail again.
        assert replica["restartPolicy"] == "ExitCode"
        # More than the ranks' own time for saving their state.
        assert replica["template"]["spec"]["terminationGracePeriodSeconds"] > 600


def test_an_unknown_field_of_the_models_is_an_error() -> None:
    from kubeflow.training import KubeflowOrgV1RunPolicy

    with pytest.raises(TypeError, match="backof_limit"):
        KubeflowOrgV1RunPolicy(backof_limit=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "a/b:1",\n "image": "a/b:2"}', "'image' occurs twice, in lines 1 and 2"),
        ("{", "ADVGRPO_CLUSTER is invalid: Expecting"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_cluster_settings_that_are_not_one_json_object_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_cluster_settings(text)


@pytest.mark.parametrize(
    ("given", "written"),
    # As a server of Kubernetes 1.36 returned them.
    [
        ("0.5", "500m"), ("1000m", "1"), ("1.5", "1500m"), ("1000", "1k"), ("12", "12"),
        ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("0.5Ki", "512"), ("0.1Gi", "107374182400m"),
        ("64Gi", "64Gi"), ("1000k", "1M"), ("1048576Ki", "1Gi"), ("1025Ki", "1025Ki"),
    ],
)  # fmt: skip
def test_quantities_become_what_kubernetes_writes(given: str, written: str) -> None:
    assert canonical_quantity(given) == written
