import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import Configuration

from advgrpo.cluster import connection
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.checks.check import Check
from advgrpo.cluster.checks.doctor import examine, require_ready
from advgrpo.cluster.credentials import MLFLOW_KEYS
from advgrpo.cluster.roles import DOCTOR_RULES, Rule, launcher_rules
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import ClusterError, ClusterUnavailableError
from advgrpo.storage.credentials import S3_KEYS
from advgrpo.testing import FakeCluster, Fault
from advgrpo.testing.cluster_objects import Target
from tests.helm.pod_security import violations

SETTINGS: dict[str, Any] = {
    "image": "registry/trainer:1",
    "image_pull_secrets": ["registry-key"],
    "gpus_per_node": 8,
    "node_selector": {"gpu": "h100"},
    "queue": "shared",
    "cache_claim": "cache",
}
LAUNCHER_RULES = launcher_rules(PyTorchJobs())


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    with FakeCluster(namespaces=("ml",)) as cluster:
        path = cluster.kubeconfig(tmp_path / "kubeconfig", namespace="ml")
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        _install(cluster)
        yield cluster


def _install(cluster: FakeCluster, settings: dict[str, Any] = SETTINGS) -> None:
    cluster.store.create(Target("", "v1", "namespaces"), _named("ml"))
    data = {"ADVGRPO_CLUSTER": json.dumps(settings), "MLFLOW_TRACKING_URI": "http://mlflow"}
    cluster.create("configmaps", _named("advgrpo") | {"data": data}, namespace="ml")
    for secret, keys in (("advgrpo-s3", S3_KEYS), ("advgrpo-mlflow", MLFLOW_KEYS)):
        body = _named(secret) | {"data": dict.fromkeys(keys, "eA==")}
        cluster.create("secrets", body, namespace="ml")
    cluster.create("secrets", _named("registry-key"), namespace="ml")
    cluster.create("serviceaccounts", _named("advgrpo-training"), namespace="ml")
    cluster.create("persistentvolumeclaims", _named("cache"), namespace="ml")
    cluster.store.create(Target("kueue.x-k8s.io", "v1beta1", "localqueues", "ml"), _named("shared"))
    for name, count, kind in (("a", "8", "h100"), ("b", "4", "h100"), ("c", "8", "a100")):
        node = {"metadata": {"name": name, "labels": {"gpu": kind}}}
        node["status"] = {"allocatable": {"nvidia.com/gpu": count}}
        cluster.store.create(Target("", "v1", "nodes"), node)


def _named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def _check(name: str, **arguments: str) -> Check:
    checks = list(examine(**arguments))
    # A name may be the start of another one.
    found = [check for check in checks if check.name == name] or [
        check for check in checks if check.name.startswith(name)
    ]
    assert len(found) == 1, found
    return found[0]


def _remove(cluster: FakeCluster, resource: str, name: str, group: str = "") -> None:
    namespace = "" if resource in {"namespaces", "nodes"} else "ml"
    found = cluster.store.find(group, resource, namespace, name)
    assert found is not None
    cluster.store.remove(found)


def test_a_complete_cluster_fails_no_check(cluster: FakeCluster) -> None:
    checks = list(examine())
    assert [check for check in checks if check.state == "FAIL"] == []
    skipped = [check.name for check in checks if check.state == "SKIP"]
    assert skipped == ["image registry/trainer:1"]
    assert all(check.found for check in checks)
    assert cluster.calls


@pytest.mark.parametrize(
    ("resource", "name", "check"),
    [
        ("namespaces", "ml", "namespace ml"),
        ("configmaps", "advgrpo", "ConfigMap advgrpo"),
        ("secrets", "advgrpo-s3", "Secret advgrpo-s3"),
        ("secrets", "registry-key", "pull secret registry-key"),
        ("serviceaccounts", "advgrpo-training", "service account advgrpo-training"),
        ("persistentvolumeclaims", "cache", "cache claim cache"),
        ("nodes", "a", "nodes with 8 nvidia.com/gpu"),
    ],
)
def test_a_missing_object_is_named_with_its_repair(
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    resource: str,
    name: str,
    check: str,
) -> None:
    monkeypatch.setenv("ADVGRPO_CLUSTER", json.dumps(SETTINGS))
    assert _check(check).state == "OK"
    _remove(cluster, resource, name)
    found = _check(check)
    assert found.state == "FAIL"
    assert found.repair


def test_a_missing_queue_is_named(cluster: FakeCluster) -> None:
    assert _check("queue shared").state == "OK"
    _remove(cluster, "localqueues", "shared", "kueue.x-k8s.io")
    assert _check("queue shared").state == "FAIL"
    cluster.missing_resources.add("localqueues")
    assert "does not have Kueue" in _check("queue shared").found


@pytest.mark.parametrize(
    ("plural", "name"),
    [("pytorchjobs", "kind pytorchjobs"), ("workflows", "kind workflows")],
)
def test_a_kind_that_is_not_installed_is_named(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, plural: str, name: str
) -> None:
    cluster.missing_resources.add(plural)
    monkeypatch.setenv("ADVGRPO_CLUSTER", json.dumps(SETTINGS | {"backend": "pytorchjob"}))
    found = _check(name)
    assert (found.state, "install" in found.repair) == ("FAIL", True)


@pytest.mark.parametrize("rule", LAUNCHER_RULES)
def test_each_permission_of_the_launcher_is_checked(cluster: FakeCluster, rule: Rule) -> None:
    for verb in rule["verbs"]:
        cluster.denied = {(verb, rule["resources"][0])}
        for account in ("", "default-editor"):
            found = _check("permissions", service_account=account)
            assert found.state == "FAIL"
            assert f"may not {verb} {rule['resources'][0]} in ml" in found.found


def test_the_permissions_of_another_account_can_be_checked(cluster: FakeCluster) -> None:
    assert _check("permissions of default-editor", service_account="default-editor").state == "OK"
    assert cluster.calls[-1].resource != "selfsubjectaccessreviews"
    assert any(call.resource == "localsubjectaccessreviews" for call in cluster.calls)


@pytest.mark.parametrize(
    ("secret", "keys", "said"),
    [
        ("advgrpo-s3", ["accesskey", "secretkey"], "lacks AWS_ACCESS_KEY_ID"),
        ("advgrpo-s3", ["AWS_ACCESS_KEY_ID"], "lacks AWS_SECRET_ACCESS_KEY"),
        ("advgrpo-mlflow", ["MLFLOW_TRACKING_USERNAME"], "lacks MLFLOW_TRACKING_PASSWORD"),
        ("advgrpo-mlflow", ["password"], "lacks MLFLOW_TRACKING_TOKEN; it has password"),
    ],
)
def test_wrong_keys_of_a_secret_are_named(
    cluster: FakeCluster, secret: str, keys: list[str], said: str
) -> None:
    _remove(cluster, "secrets", secret)
    body = _named(secret) | {"data": dict.fromkeys(keys, "eA==")}
    cluster.create("secrets", body, namespace="ml")
    found = _check(f"Secret {secret}")
    assert (found.state, said in found.found) == ("FAIL", True)
    assert "AWS_" in found.repair or "MLFLOW_" in found.repair


def test_a_key_without_a_value_is_missing(cluster: FakeCluster) -> None:
    _remove(cluster, "secrets", "advgrpo-s3")
    data = {"AWS_ACCESS_KEY_ID": "eA==", "AWS_SECRET_ACCESS_KEY": ""}
    cluster.create("secrets", _named("advgrpo-s3") | {"data": data}, namespace="ml")
    found = _check("Secret advgrpo-s3")
    assert (found.state, "lacks AWS_SECRET_ACCESS_KEY" in found.found) == ("FAIL", True)


def test_mlflow_without_a_login_needs_no_secret(cluster: FakeCluster) -> None:
    _remove(cluster, "secrets", "advgrpo-mlflow")
    assert _check("Secret advgrpo-mlflow").state == "SKIP"


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        ("secrets", "Secret advgrpo-s3"),
        ("nodes", "nodes with"),
        ("events", "image"),
        ("namespaces", "namespace"),
        ("localqueues", "queue"),
    ],
)
def test_an_unreadable_object_is_skipped_and_not_a_failure(
    cluster: FakeCluster, resource: str, name: str
) -> None:
    cluster.denied = {("get", resource), ("list", resource)}
    found = _check(name)
    assert (found.state, "forbidden" in found.found) == ("SKIP", True)


def test_the_last_pull_among_the_events_counts(cluster: FakeCluster) -> None:
    def record(minute: int, reason: str, message: str) -> None:
        event = {
            "metadata": {"generateName": "pull-"},
            "reason": reason,
            "message": message,
            "lastTimestamp": f"2026-11-28T19:{minute}:00Z",
        }
        cluster.create("events", event, namespace="ml")

    record(20, "Failed", 'Failed to pull image "registry/trainer:1": 401 Unauthorized')
    found = _check("image registry/trainer:1")
    assert (found.state, "401 Unauthorized" in found.found) == ("FAIL", True)
    record(10, "Pulled", 'Container image "registry/trainer:1" already present on machine')
    assert _check("image registry/trainer:1").state == "FAIL"
    record(30, "Pulled", 'Successfully pulled image "registry/trainer:1" in 2s')
    assert _check("image registry/trainer:1").state == "OK"


def test_invalid_settings_name_the_key(cluster: FakeCluster) -> None:
    _remove(cluster, "configmaps", "advgrpo")
    data = {"ADVGRPO_CLUSTER": '{"image": "i", "gpus": 8}', "MLFLOW_TRACKING_URI": "http://m"}
    cluster.create("configmaps", _named("advgrpo") | {"data": data}, namespace="ml")
    found = _check("settings")
    assert (found.state, "gpus" in found.found) == ("FAIL", True)


def test_missing_keys_of_the_config_map_are_named(cluster: FakeCluster) -> None:
    _remove(cluster, "configmaps", "advgrpo")
    cluster.create("configmaps", _named("advgrpo") | {"data": {"x": "y"}}, namespace="ml")
    assert "lacks ADVGRPO_CLUSTER" in _check("ConfigMap").found


def test_without_a_cluster_other_checks_are_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    checks = list(examine())
    assert [check.state for check in checks] == ["FAIL", "SKIP"]
    assert "KUBECONFIG" in checks[0].repair


@pytest.mark.parametrize("content", ["a: [b", "hello"])
def test_an_invalid_kubeconfig_file_fails_a_check(
    cluster: FakeCluster, tmp_path: Path, content: str
) -> None:
    (tmp_path / "kubeconfig").write_text(content)
    found = _check("Kubernetes API server")
    assert (found.state, "no access" in found.found) == ("FAIL", True)
    assert cluster.calls == []


def test_a_server_that_is_not_an_api_server_fails_a_check(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_discover", lambda _path: "Welcome")
    found = _check("Kubernetes API server")
    assert (found.state, "not a whole JSON object" in found.found) == ("FAIL", True)


def test_a_dead_api_server_is_one_failure(cluster: FakeCluster) -> None:
    cluster.faults.plan(Fault("reset_before", times=99))
    checks = list(examine())
    assert [check.name for check in checks if check.state == "FAIL"] == ["Kubernetes API server"]


def test_a_server_that_fails_midway_fails_a_check(cluster: FakeCluster) -> None:
    cluster.faults.plan(Fault("status", resource="secrets", times=99))
    assert _check("Secret advgrpo-s3").state == "FAIL"


def test_in_a_pod_the_environment_replaces_unreadable_secrets(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "namespace").write_text("ml")
    monkeypatch.setattr(connection, "_NAMESPACE_FILE", tmp_path / "namespace")

    def load(client_configuration: Configuration) -> None:
        client_configuration.host = cluster.url

    monkeypatch.setattr(connection.config, "load_incluster_config", load)
    cluster.denied = {("get", "secrets"), ("get", "namespaces")}
    assert _check("Secret advgrpo-s3").state == "SKIP", "a pod that is not the chart's"
    monkeypatch.setenv("ADVGRPO_CLUSTER", json.dumps(SETTINGS))
    found = _check("Secret advgrpo-s3")
    assert (found.state, "it has no keys" in found.found) == ("FAIL", True)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23")
    assert _check("Secret advgrpo-s3").state == "SKIP", "an identity replaces the keys"
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    found = _check("Secret advgrpo-s3")
    assert (found.state, "this pod lacks AWS_SECRET_ACCESS_KEY" in found.found) == ("FAIL", True)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    assert _check("Secret advgrpo-s3") == Check(
        "Secret advgrpo-s3", "OK", "this pod has AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
    )
    assert _check("namespace ml").state == "OK"


def test_a_ready_cluster_lets_a_run_start(cluster: FakeCluster) -> None:
    require_ready(ClusterSettings(**SETTINGS))
    assert {call.verb for call in cluster.calls} <= {"get", "create"}


def test_a_run_that_cannot_start_jobs_is_refused(cluster: FakeCluster) -> None:
    settings = ClusterSettings(**SETTINGS)
    _remove(cluster, "localqueues", "shared", "kueue.x-k8s.io")
    # With no more permissions than the launcher's: the job would wait for ever.
    readable = {name for rule in LAUNCHER_RULES for name in rule["resources"]}
    cluster.denied = {("get", name) for name in {"localqueues", "serviceaccounts"} - readable}
    with pytest.raises(ClusterError, match="queue shared: does not exist"):
        require_ready(settings)
    _remove(cluster, "configmaps", "advgrpo")
    with pytest.raises(ClusterError, match="ConfigMap advgrpo: does not exist"):
        require_ready(settings)
    cluster.denied = {("create", "pytorchjobs")}
    with pytest.raises(ClusterError, match="may not create pytorchjobs"):
        require_ready(settings)
    cluster.missing_resources.add("pytorchjobs")
    with pytest.raises(ClusterError, match="kind pytorchjobs"):
        require_ready(settings)
    cluster.faults.plan(Fault("reset_before", times=99))
    with pytest.raises(ClusterUnavailableError):
        require_ready(settings)


def _restricted(pod: dict[str, Any]) -> str:
    found = violations(pod["spec"])
    return f'violates PodSecurity "restricted:latest": {", ".join(found)}' if found else ""


def test_pods_that_the_namespace_admits_are_not_created(cluster: FakeCluster) -> None:
    cluster.admission = _restricted
    assert _check("pod of a job").state == "OK"
    assert cluster.store.all("", "pods") == []


def test_the_operators_init_container_is_found_before_a_job_of_two_pods_starts(
    cluster: FakeCluster,
) -> None:
    assert _check("pod of a job's worker").state == "OK"
    cluster.admission = _restricted
    found = _check("pod of a job's worker")
    # The operator may be configured already.
    assert (found.state, "init-pytorch" in found.found) == ("SKIP", True)
    assert "--pytorch-init-container-template-file" in found.repair


@pytest.mark.parametrize(
    ("reason", "repair"),
    [
        ("exceeded quota: q, requested: pods=8, used: pods=0, limited: pods=4", "ResourceQuota"),
        ("maximum memory usage per Container is 2Gi, but limit is 64Gi", "LimitRange"),
        ("no PriorityClass with name urgent was found", "cluster.priorityClass"),
        (
            "unable to validate against any security context constraint: runAsUser: Invalid value",
            "cluster.runAsUser=null",
        ),
        ("violates PodSecurity: pytorch must not add IPC_LOCK", "cluster.rdma.ipcLock=false"),
        ("another policy", "the namespace's policy"),
    ],
)
def test_a_pod_that_is_not_admitted_is_a_failure_with_a_repair(
    cluster: FakeCluster, reason: str, repair: str
) -> None:
    cluster.admission = lambda _: reason
    found = _check("pod of a job")
    assert (found.state, reason in found.found, repair in found.repair) == ("FAIL", True, True)
    with pytest.raises(ClusterError, match="pod of a job"):
        require_ready(ClusterSettings(**SETTINGS))


def test_a_quota_that_is_used_up_lets_a_run_start_and_wait(cluster: FakeCluster) -> None:
    reason = "exceeded quota: q, requested: pods=1, used: pods=4, limited: pods=4"
    cluster.admission = lambda _: reason
    assert _check("pod of a job").state == "SKIP"
    require_ready(ClusterSettings(**SETTINGS))


def test_the_pod_of_a_task_is_checked(cluster: FakeCluster) -> None:
    pod = {"metadata": {}, "spec": {"containers": [{"name": "main", "image": "launcher"}]}}
    cluster.admission = _restricted
    checks = list(examine(task_pod=lambda _: pod))
    (found,) = [check for check in checks if check.name == "pod of a task"]
    assert (found.state, "main: runAsNonRoot" in found.found) == ("FAIL", True)


def test_without_permission_to_create_pods_their_admission_is_unknown(
    cluster: FakeCluster,
) -> None:
    cluster.denied = {("create", "pods")}
    assert _check("pod of a job").state == "SKIP"
    require_ready(ClusterSettings(**SETTINGS))


def test_a_webhook_without_dry_runs_leaves_the_admission_unknown(cluster: FakeCluster) -> None:
    cluster.admission = lambda _: 'admission webhook "x" does not support dry run'
    assert _check("pod of a job").state == "SKIP"


def test_all_requests_are_allowed_by_the_rules(cluster: FakeCluster) -> None:
    list(examine())
    allowed = {
        (verb, resource)
        for rule in (*DOCTOR_RULES, *LAUNCHER_RULES)
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    # Open to every account, or skipped if it is refused.
    free = {"selfsubjectaccessreviews", "secrets", "nodes", "namespaces", ""}
    asked = {(call.verb, call.resource) for call in cluster.calls if call.resource not in free}
    assert asked <= allowed
