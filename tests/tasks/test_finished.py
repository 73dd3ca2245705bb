"""Finished results, which the launcher finds without torch."""

from pathlib import Path
from shutil import rmtree

import pytest

from advgrpo.config import resolve
from advgrpo.config.tasks import PretrainingSettings, ReferenceImagesSettings, TrainingSettings
from advgrpo.data.prompts import read_run_prompts
from advgrpo.records import PEFT_WEIGHTS
from advgrpo.reference_images.image_store import ArchivedImageStore
from advgrpo.reference_images.manifest import LISTS_PART, Origin, Provenance
from advgrpo.reference_images.request import plan_images, requested_sets
from advgrpo.runtime.results import result_folder, write_history, write_metrics
from advgrpo.runtime.task_context import outbox
from advgrpo.storage import join
from advgrpo.tasks.finished import (
    REPORT_FILE,
    evaluation_location,
    find_evaluation,
    find_pretrained,
    find_trained,
    pretraining_location,
    training_location,
)
from advgrpo.tasks.finished_images import find_reference_images
from advgrpo.tracking import metric_curves

CONFIG = resolve("pocket")


def finish(location: str) -> None:
    with result_folder(location) as folder:
        write_history(folder, [{"update": 1.0, "step": 1.0, "loss": 0.5}])
        write_metrics(folder, {"distance": 0.5})


def test_a_finished_training_is_found_and_recorded_again(tmp_path: Path) -> None:
    task = TrainingSettings.of(CONFIG)
    places = {"reference_images": "r", "discriminator": "d", "workspace": str(tmp_path)}
    settings = task.model_dump_json()
    assert find_trained(settings, **places) is None
    location = training_location(task, read_run_prompts(task.prompts), **places)
    finish(join(location, "result"))
    done = find_trained(settings, **places, processes=4)
    assert done is not None
    assert (done.location, done.metrics) == (join(location, "result"), {"distance": 0.5})
    (folder,) = outbox().iterdir()
    assert metric_curves(folder)["loss"] == [(1, 0.5)]
    assert find_trained(settings, **places | {"discriminator": "other"}) is None


def test_a_finished_pretraining_is_found_and_recorded_again(tmp_path: Path) -> None:
    task = PretrainingSettings.of(CONFIG)
    places = {"reference_images": "r", "workspace": str(tmp_path)}
    settings = task.model_dump_json()
    assert find_pretrained(settings, **places) is None
    location = pretraining_location(task, read_run_prompts(task.prompts), **places)
    finish(location)
    done = find_pretrained(settings, **places)
    assert done is not None
    assert done.location == location
    (folder,) = outbox().iterdir()
    assert metric_curves(folder)["loss"] == [(1, 0.5)]


@pytest.mark.parametrize(
    "lost", ["", f"{LISTS_PART}.json", "an archive", "an image", "the drawn prompts"]
)
def test_generated_reference_images_are_found_if_all_are_there(lost: str, tmp_path: Path) -> None:
    task = ReferenceImagesSettings.of(CONFIG)
    settings = task.model_dump_json()
    assert find_reference_images(settings, workspace=str(tmp_path)) is None
    origin = Origin(source={}, seed=task.seed, resolution_pixels=16)
    for each in requested_sets(task, read_run_prompts(task.prompts)):
        place = each.location(str(tmp_path))
        store = ArchivedImageStore(place, origin)
        plan = plan_images(each.needed, each.images_per_prompt, task.seed)
        each.record_needed(str(tmp_path))
        store.save({image.name: b"image" for image in plan[lost == "an image" :]})
        store.complete({}, Provenance(**origin.model_dump(), advgrpo_version="1", files={}))
    (archive,) = (name for name in Path(place).glob("*.tar") if LISTS_PART not in name.name)
    if lost == "an archive":
        archive.unlink()
    if lost == "the drawn prompts":
        rmtree(next(tmp_path.glob("reference_images/*/train-drawn")))
    (Path(place) / (lost or "none")).unlink(missing_ok=True)
    found = find_reference_images(settings, workspace=str(tmp_path), processes=8)
    assert (found is None) == bool(lost)
    if found is not None:
        assert found.test == place


def test_images_from_elsewhere_are_left_to_the_job(tmp_path: Path) -> None:
    config = resolve("pocket", ["reference_images.existing=s3://bucket/images"])
    settings = ReferenceImagesSettings.of(config).model_dump_json()
    assert find_reference_images(settings, workspace=str(tmp_path)) is None


def test_a_finished_evaluation_is_found_and_recorded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trained = str(tmp_path / "trained")
    with result_folder(trained) as folder:
        (folder / "adapter").mkdir()
        (folder / "adapter" / PEFT_WEIGHTS).write_text("weights")
    places = {"trained": trained, "reference_images": "r", "workspace": str(tmp_path)}
    settings = CONFIG.model_dump_json()
    assert find_evaluation(settings, **places) is None
    location = evaluation_location(
        CONFIG, read_run_prompts(CONFIG.prompts), **places, champion=("", "None", "")
    )
    with result_folder(location) as folder:
        (folder / REPORT_FILE).write_text("report")
        write_metrics(folder, {"distance": 0.5})
    done = find_evaluation(settings, **places, discriminator="d", processes=8)
    assert done is not None
    assert (done.location, done.metrics) == (location, {"distance": 0.5})
    (folder,) = outbox().iterdir()
    assert metric_curves(folder)["distance"] == [(0, 0.5)]
    other = resolve("pocket", ["evaluation.bootstrap_samples=2000"]).model_dump_json()
    assert find_evaluation(other, **places) is None
