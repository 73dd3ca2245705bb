"""The components on a cluster, where Kubeflow's launcher moves their artifacts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from advgrpo.config import resolve
from advgrpo.config.tasks import PretrainingSettings, ReferenceImagesSettings, TrainingSettings
from advgrpo.runtime.pipeline_tasks import JobTask
from advgrpo.runtime.results import ReferenceImageLocations, TaskResult
from components.evaluate.component import evaluate
from components.pretrain_reward.component import pretrain_reward
from components.reference_images.component import reference_images
from components.train.component import train

WORKSPACE = "s3://bucket/runs"
ROOT = "minio://mlpipeline/v2/artifacts/adversarial-grpo/run"
RESULTS: dict[str, object] = {
    "reference-images": ReferenceImageLocations(f"{WORKSPACE}/a", f"{WORKSPACE}/b"),
    "pretrain-reward": TaskResult(f"{WORKSPACE}/discriminators/c", {"accuracy": 0.5}),
    "train": TaskResult(f"{WORKSPACE}/training/d/result", {"updates": 2.0}),
    "evaluate": TaskResult(f"{WORKSPACE}/evaluations/e", {"distance": 1.0}),
}


def test_artifacts_stand_for_the_workspace_without_copies_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: dict[str, dict[str, Any]] = {}

    def run_task(task: JobTask[Any], arguments: dict[str, Any], *, run_id: str) -> object:
        passed[task.name] = arguments | {"run_id": run_id}
        return RESULTS[task.name]

    monkeypatch.setattr("advgrpo.runtime.dispatch.run_task", run_task)
    monkeypatch.setattr(TaskResult, "copy", lambda *_: Path(made["report"].path).touch())
    made: dict[str, dsl.Artifact] = {}

    def output(name: str, kind: Callable[..., dsl.Artifact] = dsl.Artifact) -> dsl.Artifact:
        made[name] = kind(name=name, uri=f"{ROOT}/{name}")
        made[name].custom_path = str(tmp_path / name)
        return made[name]

    config = resolve("pocket")
    output("settings")
    (tmp_path / "settings").write_text(config.to_yaml())
    common = {"workspace": WORKSPACE, "parent_run_id": "m", "run_id": "1"}
    inputs = {"settings": made["settings"], **common}
    reference_images.python_func(
        **inputs,
        processes=2,
        train_images=output("train_images", dsl.Dataset),
        test_images=output("test_images", dsl.Dataset),
    )
    pretrain_reward.python_func(
        **inputs,
        reference_images=made["train_images"],
        discriminator=output("discriminator", dsl.Model),
        metrics=output("pretraining_metrics"),
    )
    train.python_func(
        **inputs,
        processes=2,
        reference_images=made["train_images"],
        discriminator=made["discriminator"],
        adapter=output("adapter", dsl.Model),
        metrics=output("training_metrics"),
    )
    evaluate.python_func(
        **inputs,
        processes=2,
        adapter=made["adapter"],
        discriminator=made["discriminator"],
        reference_images=made["test_images"],
        evaluation=output("evaluation"),
        report=output("report", dsl.HTML),
        metrics=output("metrics"),
    )
    # Kubeflow 2.17 fails a task with a URI outside of the run's folder, and uploads what is there.
    assert {name: artifact.uri for name, artifact in made.items()} == {
        name: f"{ROOT}/{name}" for name in made
    }
    assert made["adapter"].metadata == {
        "location": f"{WORKSPACE}/training/d/result",
        "checkpoints": f"{WORKSPACE}/training/d/checkpoints",
    }
    assert Path(made["adapter"].path).read_text() == f"{WORKSPACE}/training/d/result"
    assert made["metrics"].metadata == {"distance": 1.0}
    assert passed["evaluate"] == {
        "settings": config.model_dump_json(),
        "trained": f"{WORKSPACE}/training/d/result",
        "discriminator": f"{WORKSPACE}/discriminators/c",
        "reference_images": f"{WORKSPACE}/b",
        "processes": 2,
        **common,
    }
    assert passed["train"]["reference_images"] == f"{WORKSPACE}/a"
    settings = [
        passed[task]["settings"] for task in ("reference-images", "pretrain-reward", "train")
    ]
    assert settings == [
        section.of(config).model_dump_json()
        for section in (ReferenceImagesSettings, PretrainingSettings, TrainingSettings)
    ]


def test_a_local_run_has_the_locations_as_uris(tmp_path: Path) -> None:
    from advgrpo.runtime.results import located, refer

    artifact = dsl.Dataset(uri=str(tmp_path / "images"))
    refer(artifact, WORKSPACE)
    assert (artifact.uri, located(artifact)) == (WORKSPACE, WORKSPACE)
    assert (tmp_path / "images").read_text() == WORKSPACE
