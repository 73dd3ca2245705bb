"""The pipeline as a cluster runs it: chart, launcher and jobs are real, Kubernetes is not."""

from pathlib import Path

import pytest

from advgrpo.compiled import PIPELINE
from advgrpo.local_pipeline import run_pipeline
from advgrpo.storage import list_files, write_bytes
from advgrpo.stores import EmbeddedStores
from advgrpo.testing import FakeCluster
from helm.chart import OFFLINE
from tests.helm.releases import objects, of_kind
from tests.kubelet import Kubelet
from tests.tasks.test_worker import PROMPTS, SMALL

pytestmark = pytest.mark.slow

RESOURCES = {"ConfigMap": "configmaps", "Secret": "secrets", "ServiceAccount": "serviceaccounts"}


@pytest.fixture
def cluster(stores: EmbeddedStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A namespace with the chart's objects, and the environment of a pipeline's pod in it."""
    there = stores.environment()
    values = {
        **OFFLINE,
        "s3": {
            "bucket": "advgrpo",
            "endpoint": there["AWS_ENDPOINT_URL_S3"],
            "accessKeyId": there["AWS_ACCESS_KEY_ID"],
            "secretAccessKey": there["AWS_SECRET_ACCESS_KEY"],
        },
        "mlflow": {"trackingUri": there["MLFLOW_TRACKING_URI"]},
        "cluster": {"gpus_per_node": 0, "processes_per_node": 2, "poll_seconds": 0.2},
    }
    rendered = objects(values)
    fake = FakeCluster()
    for kind, resource in RESOURCES.items():
        for one in of_kind(rendered, kind).values():
            fake.create(resource, one | {"metadata": {"name": one["metadata"]["name"]}})
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-1"}
    pod = {"metadata": {"name": "task", "ownerReferences": [workflow | {"uid": "1"}]}}
    fake.create("pods", pod)
    settings = of_kind(rendered, "ConfigMap")["advgrpo"]["data"]
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KFP_POD_NAME", "task")
    monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path / "kubeconfig")))
    return fake


def test_the_whole_pipeline_runs_as_jobs_of_a_cluster(cluster: FakeCluster, tmp_path: Path) -> None:
    workspace = f"s3://advgrpo/cluster/{tmp_path.name}"
    for name, step in (("train", 10), ("test", 3)):
        lines = (PROMPTS / f"{name}.txt").read_text("utf-8").splitlines()[: 24 * step : step]
        write_bytes(f"{workspace}/{name}.txt", "\n".join(lines).encode())
    kubelet = Kubelet(cluster, tmp_path / "pods")
    with cluster, kubelet.running():
        outputs = run_pipeline(
            PIPELINE,
            {
                "workspace": workspace,
                "preset": "pocket",
                "overrides": [
                    *SMALL,
                    "training.updates=1",
                    f"prompts.train={workspace}/train.txt",
                    f"prompts.test={workspace}/test.txt",
                ],
                "processes": 2,
            },
            artifacts=tmp_path / "artifacts",
        )
        jobs = list(cluster.operator.jobs)
    assert outputs["model_version"].startswith("models:/advgrpo-pocket/")
    tasks = [job.body["metadata"]["labels"]["advgrpo/task"] for job in jobs]
    assert tasks == ["reference-images", "pretrain-reward", "train", "evaluate"]
    assert set(kubelet.codes.values()) == {0}
    for job in jobs:
        (owner,) = job.body["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Workflow", "run-1")
    assert any("adversarial training" in line for line in jobs[2].said)
    assert list_files(f"{workspace}/features")
    assert [path.name for path in (tmp_path / "artifacts").rglob("adapter_model.safetensors")]
