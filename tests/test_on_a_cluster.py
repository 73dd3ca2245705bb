"""The pipeline on a fake cluster, with the real chart, launcher and jobs."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.kfp_client.compiled import PIPELINE
from advgrpo.kfp_client.local import run_pipeline
from advgrpo.storage import list_files, write_bytes
from advgrpo.testing import FakeCluster, FakeJob
from helm.chart import OFFLINE
from tests.helm.releases import objects, of_kind
from tests.kubelet import Kubelet
from tests.planted import PLANTED, captured_output, leaks
from tests.runtime.test_worker import PROMPTS, SMALL

pytestmark = pytest.mark.slow

RESOURCES = {"ConfigMap": "configmaps", "Secret": "secrets", "ServiceAccount": "serviceaccounts"}


@dataclass
class Ran:
    """Results of a run."""

    folder: Path
    workspace: str
    outputs: dict[str, str]
    jobs: list[FakeJob]
    codes: dict[str, int]
    said: str


@pytest.fixture(scope="module")
def servers(
    running_stores: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pytest.MonkeyPatch]:
    """An environment with access to all servers, and planted secrets."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (PLANTED | running_stores.environment()).items():
            patch.setenv(name, value)
        patch.setenv("ADVGRPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield patch


@pytest.fixture(scope="module")
def ran(
    running_stores: EmbeddedServers,
    servers: pytest.MonkeyPatch,
    warm_interpreter: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ran:
    """The whole pipeline, run as jobs of a cluster."""
    servers.setattr(sys, "executable", str(warm_interpreter))
    folder = tmp_path_factory.mktemp("cluster")
    cluster = namespace(running_stores, servers, folder)
    workspace = f"s3://advgrpo/cluster/{folder.name}"
    for name, step in (("train", 10), ("test", 3)):
        lines = (PROMPTS / f"{name}.txt").read_text("utf-8").splitlines()[: 24 * step : step]
        write_bytes(f"{workspace}/{name}.txt", "\n".join(lines).encode())
    kubelet = Kubelet(cluster, folder / "pods")
    with captured_output() as said, cluster, kubelet.running():
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
            artifacts=folder / "artifacts",
        )
        jobs = list(cluster.operator.jobs)
    return Ran(folder, workspace, outputs, jobs, kubelet.codes, said[0])


def namespace(stores: EmbeddedServers, patch: pytest.MonkeyPatch, folder: Path) -> FakeCluster:
    """Return a namespace with the chart's objects, and set the environment of a pipeline's pod."""
    there = stores.environment()
    values = {
        **OFFLINE,
        "s3": {
            "bucket": "advgrpo",
            # Tasks and jobs may not write outside of it.
            "prefix": "cluster",
            "endpoint": there["AWS_ENDPOINT_URL_S3"],
            "accessKeyId": there["AWS_ACCESS_KEY_ID"],
            "secretAccessKey": there["AWS_SECRET_ACCESS_KEY"],
        },
        "mlflow": {
            "trackingUri": there["MLFLOW_TRACKING_URI"],
            "token": PLANTED["MLFLOW_TRACKING_TOKEN"],
        },
        "cluster": {"gpusPerNode": 0, "processesPerNode": 2, "pollSeconds": 0.2},
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
        patch.setenv(name, value)
    patch.setenv("KFP_POD_NAME", "task")
    patch.setenv("KUBECONFIG", str(fake.kubeconfig(folder / "kubeconfig")))
    return fake


def test_the_whole_pipeline_runs_as_jobs_of_a_cluster(
    ran: Ran, running_stores: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ran.outputs["model_version"].startswith("models:/advgrpo-pocket/")
    tasks = [job.body["metadata"]["labels"]["advgrpo/task"] for job in ran.jobs]
    assert tasks == ["reference-images", "pretrain-reward", "train", "evaluate"]
    assert set(ran.codes.values()) == {0}
    for job in ran.jobs:
        (owner,) = job.body["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Workflow", "run-1")
    assert any("adversarial training" in line for line in ran.jobs[2].log_lines)
    for name, value in running_stores.environment().items():
        monkeypatch.setenv(name, value)
    assert list_files(f"{ran.workspace}/features")
    # The artifacts of Kubeflow stand for results in the workspace; none of them is a copy.
    assert ran.outputs["trained"].startswith(f"{ran.workspace}/training/")
    assert not list((ran.folder / "artifacts").rglob("*.safetensors"))


def test_the_results_of_a_run_contain_no_secret(ran: Ran, running_stores: EmbeddedServers) -> None:
    there = running_stores.environment()
    secrets = [*PLANTED.values(), there["AWS_SECRET_ACCESS_KEY"]]
    stores = [path for path in running_stores.folder.iterdir() if path.name != "credentials.json"]
    manifests = [json.dumps(job.body) + json.dumps(job.pods) for job in ran.jobs]
    logs = ["\n".join(job.log_lines) for job in ran.jobs]
    # Workspace, MLflow's database and artifacts, both servers' logs, the pods' disks, the
    # pipeline's artifacts, the jobs' manifests and logs, and the tasks' output.
    assert leaks(secrets, *stores, ran.folder, *manifests, *logs, ran.said) == []
    # The search must have had something to search.
    assert len(ran.said) > 1000
    assert leaks(["adversarial training"], *logs)
    assert leaks(["advgrpo-pocket"], *stores)
