import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.cluster.checks.check import Check
from advgrpo.demo.servers import BUCKET, EmbeddedServers
from advgrpo.kfp_client import Access
from advgrpo.kfp_client.readiness import diagnose
from advgrpo.testing import FakeCluster, StubKfp

TOKEN = "the-token"


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))


@pytest.fixture
def stub() -> Iterator[StubKfp]:
    with StubKfp(token=TOKEN) as stub:
        yield stub


def _check(name: str, access: Access | None = None, workspace: str = "") -> Check:
    checks = diagnose(access=access or Access(), workspace=workspace)
    (found,) = [check for check in checks if check.name.startswith(name)]
    return found


def test_a_workspace_is_probed_and_left_clean(stores: EmbeddedServers) -> None:
    workspace = f"s3://{BUCKET}/doctor"
    assert _check("workspace", workspace=workspace).state == "OK"
    assert not list((stores.folder / "buckets" / BUCKET).glob("doctor/*"))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "403"),
        ("AWS_ACCESS_KEY_ID", "stranger", "403"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9", "127.0.0.1:9"),
    ],
)
def test_a_workspace_that_cannot_be_written_fails_with_a_repair(
    stores: EmbeddedServers,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    found = _check("workspace", workspace=f"s3://{BUCKET}/doctor")
    assert (found.state, message in found.found) == ("FAIL", True)
    assert found.repair


def test_a_missing_bucket_fails(stores: EmbeddedServers) -> None:  # noqa: ARG001
    assert _check("workspace", workspace="s3://no-such-bucket/x").state == "FAIL"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    with FakeCluster(namespaces=("ml",)) as cluster:
        path = cluster.kubeconfig(tmp_path / "kubeconfig", namespace="ml")
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield cluster


def _config_map(cluster: FakeCluster, **data: str) -> None:
    cluster.create("configmaps", {"metadata": {"name": "advgrpo"}, "data": data}, namespace="ml")


def test_a_laptop_uses_the_servers_of_the_charts_config_map(
    stores: EmbeddedServers,
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = stores.environment()
    _config_map(
        cluster,
        AWS_ENDPOINT_URL=servers["AWS_ENDPOINT_URL_S3"],
        MLFLOW_TRACKING_URI=servers["MLFLOW_TRACKING_URI"],
    )
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert _check("workspace", workspace=f"s3://{BUCKET}/doctor").state == "OK"
    assert _check("MLflow").found.startswith("version 3.")
    # The variables of this process stay as they are.
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_servers_within_the_cluster_are_skipped_on_a_laptop(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    _config_map(
        cluster, AWS_ENDPOINT_URL="http://127.0.0.1:9", MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    for found in (_check("workspace", workspace="s3://b/w"), _check("MLflow")):
        assert (found.state, "cannot be reached from here" in found.found) == ("SKIP", True)
        assert "helm test" in found.found


def test_without_keys_a_workspace_is_skipped_on_a_laptop_and_fails_in_a_pod(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    found = _check("workspace", workspace="s3://b/w")
    assert (found.state, "AWS_SECRET_ACCESS_KEY" in found.repair) == ("SKIP", True)
    monkeypatch.setenv("ADVGRPO_CLUSTER", '{"image": "i"}')
    found = _check("workspace", workspace="s3://b/w")
    assert (found.state, "no credentials" in found.found) == ("FAIL", True)


def test_a_chart_outside_of_the_namespace_of_a_single_user_pipelines_fails(
    stub: StubKfp, cluster: FakeCluster
) -> None:
    access = Access(endpoint=stub.endpoint, token=TOKEN)
    found = _check("namespace of tasks", access)
    assert (found.state, "which is not ml" in found.found) == ("FAIL", True)
    assert "multi-user" in found.repair
    cluster.denied = {("get", "services")}
    assert _check("namespace of tasks", access).state == "SKIP"
    cluster.denied.clear()
    cluster.create("services", {"metadata": {"name": "ml-pipeline"}}, namespace="ml")
    assert _check("namespace of tasks", access).state == "OK"


def test_a_multi_user_pipelines_runs_tasks_where_it_is_asked_to(cluster: FakeCluster) -> None:
    with StubKfp(namespaces=["ml"]) as stub:
        checks = list(diagnose(access=Access(endpoint=stub.endpoint, namespace="ml")))
    assert cluster.calls
    assert "namespace of tasks" not in {check.name for check in checks}


def test_a_workspace_that_is_a_local_folder_fails() -> None:
    assert "s3://" in _check("workspace", workspace="workspace").repair


def test_the_version_of_mlflow_is_read(stores: EmbeddedServers) -> None:  # noqa: ARG001
    found = _check("MLflow")
    assert (found.state, found.found.startswith("version 3.")) == ("OK", True)


def test_an_unreachable_mlflow_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = _check("MLflow")
    assert (found.state, "127.0.0.1:9" in found.found) == ("FAIL", True)


def test_without_the_package_mlflow_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "advgrpo.tracking.health", None)
    found = _check("MLflow")
    assert (found.state, "advgrpo[launcher]" in found.repair) == ("SKIP", True)


def test_kubeflow_is_reached_with_the_token(stub: StubKfp) -> None:
    assert _check("Kubeflow", Access(endpoint=stub.endpoint, token=TOKEN)).state == "OK"
    found = _check("Kubeflow", Access(endpoint=stub.endpoint, token="old"))
    assert (found.state, "401" in found.found) == ("FAIL", True)


def test_an_account_that_may_not_list_runs_still_reaches_kubeflow() -> None:
    with StubKfp(namespaces=["ml"]) as stub:
        found = _check("Kubeflow", Access(endpoint=stub.endpoint, namespace="other"))
    assert (found.state, "may not list runs" in found.found) == ("OK", True)


def test_unknown_parts_are_skipped() -> None:
    skipped = [check for check in diagnose(access=Access()) if check.state == "SKIP"]
    assert [check.name.split()[0] for check in skipped] == [
        "settings", "workspace", "MLflow", "Kubeflow",
    ]  # fmt: skip


def test_the_command_prints_checks_and_repairs_and_fails(stub: StubKfp) -> None:
    access = ["--endpoint", stub.endpoint, "--token", TOKEN]
    result = CliRunner().invoke(app, ["doctor", *access])
    assert result.exit_code == 1
    assert "FAIL  Kubernetes API server: no access to Kubernetes" in result.output
    assert "      repair: set KUBECONFIG" in result.output
    assert f"OK    Kubeflow Pipelines: {stub.endpoint} answers" in result.output


def test_the_command_prints_json(stub: StubKfp) -> None:
    result = CliRunner().invoke(app, ["doctor", "--json", "--endpoint", stub.endpoint])
    checks = json.loads(result.output)
    assert {check["state"] for check in checks} == {"FAIL", "SKIP"}
    assert set(checks[0]) == {"name", "state", "found", "repair"}


def test_checking_and_submitting_need_no_torch() -> None:
    code = (
        "import sys, advgrpo.kfp_client.readiness; "
        "sys.exit(bool({'torch', 'numpy', 'PIL', 'psutil', 'mlflow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_check_that_fails_unexpectedly_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_location: str) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr("advgrpo.kfp_client.readiness.check_writable", fail)
    checks = {c.name: c for c in diagnose(access=Access(), workspace="s3://bucket/x")}
    found = checks["workspace s3://bucket/x"]
    assert (found.state, "RecursionError" in found.found) == ("FAIL", True)
    assert "Kubeflow Pipelines" in checks


def test_a_workspace_that_is_not_a_location_fails() -> None:
    found = _check("workspace", workspace="s3:/bucket/x")
    assert (found.state, "two slashes" in found.found) == ("FAIL", True)
