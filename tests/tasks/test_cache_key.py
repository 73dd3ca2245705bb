"""Cache keys count weights and prompts by content, not by location."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from advgrpo.config import RunConfig, Weights, resolve
from advgrpo.config.tasks import PretrainingSettings, TrainingSettings
from advgrpo.data.prompts import read_run_prompts
from advgrpo.runtime.results import TaskResult, write_history
from advgrpo.storage import file_sha256
from advgrpo.tasks import pretrain_reward as pretraining
from advgrpo.tasks import train as training
from advgrpo.tasks.cache_key import by_content, cache_key
from advgrpo.tasks.finished import evaluation_location
from advgrpo.testing import TinyModels

POLICY, TEXT = "pipeline/transformer", "pipeline/text_encoder"
FILES = {
    POLICY: "diffusion_pytorch_model.safetensors",
    TEXT: "model.safetensors",
    "pipeline/tokenizer": "tokenizer.json",
    "dino": "model.safetensors",
    "pickscore": "model.safetensors",
    "adapter": "adapter_model.safetensors",
}
ALL = {"pre-training", "training", "evaluation"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Files in place of weights."""
    folder = tmp_path / "models"
    for name, file in FILES.items():
        (folder / name).mkdir(parents=True)
        (folder / name / file).write_bytes(b"one")
    (folder / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    (folder / "pipeline" / "model_index.json").write_text("{}", encoding="utf-8")
    return folder


def settings(models: Path, *overrides: str) -> RunConfig:
    tiny = TinyModels(models / "pipeline", models / "dino", models / "pickscore")
    adapter = f"policy.adapter.initial_adapter={{location: {models / 'adapter'}}}"
    return tiny.config(adapter, *overrides)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Gives the key by which each task looks for what it has done, with some models."""
    done, looked = tmp_path / "done", list[str]()
    for name, file in (("adapter", FILES["adapter"]), ("discriminator", "discriminator")):
        (done / name).mkdir(parents=True)
        (done / name / file).with_suffix(".safetensors").write_bytes(b"trained")
    write_history(done, [{"update": 1.0, "step": 1.0}])

    def finished(location: str) -> TaskResult:
        looked.append(location)
        return TaskResult(str(done), {})

    for task in (pretraining, training):
        monkeypatch.setattr(task, "find_result", finished)

    def given(models: Path, *overrides: str) -> dict[str, str]:
        config = settings(models, *overrides)
        workspace = str(tmp_path / "workspace")
        pretraining.pretrain_reward(
            PretrainingSettings.of(config).model_dump_json(),
            reference_images="r",
            workspace=workspace,
        )
        task = TrainingSettings.of(config)
        training.train(
            task.model_dump_json(),
            reference_images="r",
            discriminator="d",
            workspace=workspace,
            processes=1,
        )
        evaluation = evaluation_location(
            config,
            read_run_prompts(config.prompts),
            trained=str(done),
            reference_images="r",
            workspace=workspace,
            champion=("", "None", ""),
        )
        return {
            "pre-training": looked[-2],
            "training": looked[-1],
            # The folder of batches, which the folders of evaluations lie in.
            "evaluation": evaluation.rpartition("/")[0],
        }

    return given


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *((name, ALL) for name in FILES if name != "pickscore"),
        ("pickscore", ALL - {"pre-training"}),
    ],
)
def test_replaced_weights_at_the_same_location_change_the_keys(
    keys: Callable[..., dict[str, str]], models: Path, name: str, changed: set[str]
) -> None:
    before = keys(models)
    assert keys(models) == before
    (models / name / FILES[name]).write_bytes(b"two")
    after = keys(models)
    assert {task for task in ALL if after[task] != before[task]} == changed
    (models / name / FILES[name]).write_bytes(b"one")
    assert keys(models) == before


def test_moved_weights_keep_the_keys(
    keys: Callable[..., dict[str, str]], models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models, tmp_path / "moved")
    assert keys(tmp_path / "moved") == keys(models)


def test_moved_prompts_keep_the_keys_and_changed_ones_do_not(
    keys: Callable[..., dict[str, str]], models: Path, tmp_path: Path
) -> None:
    prompts = read_run_prompts(settings(models).prompts)
    file = tmp_path / "moved.txt"
    file.write_text("\n\t".join(prompts.train.texts) + "\n\n", encoding="utf-8")
    pinned = f"prompts.train_sha256={file_sha256(file)}"
    assert keys(models, f"prompts.train={file}", pinned) == keys(models)
    file.write_text("\n".join(prompts.train.texts[1:]), encoding="utf-8")
    others = keys(models, f"prompts.train={file}")
    assert {task for task in ALL if others[task] != keys(models)[task]} == ALL - {"evaluation"}


def test_hub_weights_count_by_commit_and_missing_ones_stay(tmp_path: Path) -> None:
    hub = Weights(location="hub://owner/name", revision="0" * 40)
    gone = Weights(location=str(tmp_path / "gone"))
    assert (by_content(hub), by_content(gone)) == (hub, gone)
    other = hub.model_copy(update={"revision": "1" * 40})
    assert cache_key(hub) != cache_key(other)


def test_packaged_weights_count_by_content() -> None:
    config = resolve("pocket")
    assert by_content(config.policy) != config.policy
    assert by_content(config.policy.adapter) == config.policy.adapter
