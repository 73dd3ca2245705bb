import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advgrpo.config import RunConfig, resolve
from advgrpo.config.tasks import read_run
from advgrpo.data.prompts import read_run_prompts
from advgrpo.demo.servers import BUCKET, EmbeddedServers
from advgrpo.errors import (
    ClusterError,
    ConfigError,
    PromptFileError,
    StorageError,
    StorageNotFoundError,
)
from advgrpo.tasks.resolve_config import ResolvedRun
from advgrpo.tasks.resolve_config import resolve_config as task
from advgrpo.testing import FakeCluster

WORKSPACE = f"s3://{BUCKET}/resolve"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """A cluster that this process takes for the one that it runs on."""
    monkeypatch.setenv("ADVGRPO_CLUSTER", '{"image": "trainer", "gpus_per_node": 2}')
    with FakeCluster() as cluster:
        data = {"ADVGRPO_CLUSTER": "{}", "MLFLOW_TRACKING_URI": "http://mlflow"}
        cluster.create("configmaps", {"metadata": {"name": "advgrpo"}, "data": data})
        cluster.create("serviceaccounts", {"metadata": {"name": "advgrpo-training"}})
        path = cluster.kubeconfig(tmp_path / "kubeconfig")
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        yield cluster


def resolve_config(
    preset: str,
    overrides: list[str],
    *,
    processes: int = 1,
    run_key: str = "",
    workspace: str = "workspace",
) -> ResolvedRun:
    return task(preset, overrides, processes=processes, run_key=run_key, workspace=workspace)


def resolved(overrides: list[str]) -> RunConfig:
    """Return settings as the tasks get them."""
    config = resolve("pocket", overrides)
    return read_run_prompts(config.prompts).resolve(config)


@pytest.mark.usefixtures("stores")
def test_tasks_read_the_settings_of_the_run_from_its_file(tmp_path: Path) -> None:
    run = resolve_config("pocket", ["training.updates=7"], processes=1, run_key="")
    config = resolved(["training.updates=7"])
    (tmp_path / "settings").write_text(run.settings)
    assert read_run(str(tmp_path / "settings")) == config
    assert config.prompts.train_sha256
    assert run.parent_run_id


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_wrong_hash_of_prompts_is_refused_with_its_setting(split: str) -> None:
    wrong = f"prompts.{split}_sha256={'ab' * 32}"
    with pytest.raises(PromptFileError, match=wrong) as refusal:
        resolve_config("pocket", [wrong])
    assert f"set prompts.{split}_sha256=" in refusal.value.repair


def test_a_run_that_could_not_be_registered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set") as refusal:
        resolve_config("pocket", [], workspace=str(tmp_path / "workspace"))
    assert "set MLFLOW_TRACKING_URI" in refusal.value.repair


def test_processes_that_cannot_share_an_update_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 training processes"):
        resolve_config("pocket", [], processes=3, run_key="")


@pytest.mark.parametrize(
    ("prompts", "override", "named"),
    [
        (6, "training.rollout.prompts_per_update=8", "prompts_per_update=8"),
        (20, "discriminator.held_out_fraction=0.0001", "held_out_fraction"),
    ],
)
def test_too_few_prompts_are_refused_at_once(
    tmp_path: Path, prompts: int, override: str, named: str
) -> None:
    file = tmp_path / "train.txt"
    file.write_text("\n".join(f"prompt {k}" for k in range(prompts)), encoding="utf-8")
    with pytest.raises(ConfigError, match=named):
        resolve_config("pocket", [f"prompts.train={file}", override], processes=1, run_key="")


def test_an_unusable_prompt_file_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("twice\ntwice\n", encoding="utf-8")
    with pytest.raises(PromptFileError, match="twice"):
        resolve_config("pocket", [f"prompts.train={file}"], processes=1, run_key="")


def test_the_mlflow_run_of_a_key_is_resumed(stores: EmbeddedServers) -> None:  # noqa: ARG001
    first = resolve_config("pocket", [], processes=1, run_key="resolve-test")
    again = resolve_config("pocket", [], processes=1, run_key="resolve-test")
    other = resolve_config("pocket", [], processes=1, run_key="")
    assert first.parent_run_id == again.parent_run_id != other.parent_run_id


def test_it_loads_no_torch() -> None:
    code = "import sys, advgrpo.tasks.resolve_config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("stores")
def test_a_preset_may_be_given_as_its_text(tmp_path: Path) -> None:
    text = resolve("pocket", ["training.updates=7"]).to_yaml()
    run = resolve_config(text, ["seed=3"])
    (tmp_path / "settings").write_text(run.settings)
    assert read_run(str(tmp_path / "settings")) == resolved(["training.updates=7", "seed=3"])


def test_an_unwritable_workspace_is_refused_at_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        resolve_config("pocket", [], workspace=str(tmp_path / "file" / "workspace"))


@pytest.mark.usefixtures("stores")
def test_checking_the_workspace_leaves_no_files(tmp_path: Path) -> None:
    resolve_config("pocket", [], workspace=str(tmp_path / "workspace"))
    # Apart from the run's own record.
    assert [path.name for path in (tmp_path / "workspace").iterdir()] == ["runs"]


def test_missing_weights_are_refused_at_once(
    stores: EmbeddedServers,  # noqa: ARG001
) -> None:
    missing = f"policy.weights.location=s3://{BUCKET}/no-such-weights"
    with pytest.raises(StorageNotFoundError, match=r"policy\.weights\.location=s3"):
        resolve_config("pocket", [missing])


def test_unpinned_weights_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"revisions\.owner/name"):
        resolve_config("pocket", ["evaluation.distance.weights.location=hub://owner/name"])


def test_a_ready_cluster_is_accepted(
    cluster: FakeCluster,
    stores: EmbeddedServers,  # noqa: ARG001
) -> None:
    assert resolve_config("pocket", [], processes=2, workspace=WORKSPACE).settings
    assert cluster.calls


@pytest.mark.parametrize(
    ("overrides", "processes", "workspace", "said"),
    [
        ([], 2, "workspace", "workspace='workspace' cannot be reached"),
        (["prompts.train=prompts.txt"], 2, WORKSPACE, "prompts.train=prompts.txt is a local path"),
        (
            ["training.rollout.microbatch_size=1", "discriminator.optimizer.batch_size=96",
             "training.rollout.prompts_per_update=6"],
            3, WORKSPACE, "processes=3 do not fill nodes of 2",
        ),
    ],
)  # fmt: skip
def test_unreachable_locations_and_unfilled_nodes_are_refused_at_once(
    cluster: FakeCluster, overrides: list[str], processes: int, workspace: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve_config("pocket", overrides, processes=processes, workspace=workspace)
    assert not [call for call in cluster.calls if call.verb == "create"]


def test_a_cluster_without_pytorchjobs_is_refused_at_once(
    cluster: FakeCluster,
) -> None:
    cluster.missing_resources.add("pytorchjobs")
    with pytest.raises(ClusterError, match="pytorchjobs"):
        resolve_config("pocket", [], workspace=WORKSPACE)


def test_a_missing_role_is_refused_at_once(cluster: FakeCluster) -> None:
    cluster.denied = {("create", "pytorchjobs")}
    with pytest.raises(ClusterError, match="may not create pytorchjobs"):
        resolve_config("pocket", [], workspace=WORKSPACE)


def test_wrong_s3_keys_are_refused_at_once(
    cluster: FakeCluster,  # noqa: ARG001
    stores: EmbeddedServers,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="403"):
        resolve_config("pocket", [], workspace=WORKSPACE)
