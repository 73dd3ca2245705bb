"""Finished results, which the launcher finds without torch."""

from pathlib import Path

from advgrpo.config import resolve
from advgrpo.config.tasks import PretrainingSettings, TrainingSettings
from advgrpo.data.prompts import read_run_prompts
from advgrpo.runtime.results import result_folder, write_history, write_metrics
from advgrpo.runtime.task_context import outbox
from advgrpo.storage import join
from advgrpo.tasks.finished import (
    find_pretrained,
    find_trained,
    pretraining_location,
    training_location,
)
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
