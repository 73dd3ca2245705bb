"""Tasks that were killed after their result was stored, before their metrics reached MLflow."""

from pathlib import Path

import pytest

from advgrpo.config import resolve
from advgrpo.config.tasks import PretrainingSettings, TrainingSettings
from advgrpo.runtime.results import TaskResult, write_history
from advgrpo.runtime.task_context import outbox, record_task
from advgrpo.tasks import pretrain_reward as pretraining
from advgrpo.tasks import train as training
from advgrpo.tasks.finished import record_evaluation
from advgrpo.tracking import metric_curves


@pytest.fixture
def finished(tmp_path: Path) -> TaskResult:
    folder = tmp_path / "result"
    folder.mkdir()
    write_history(folder, [{"update": 1.0, "step": 1.0, "loss": 0.5}])
    (folder / "report.html").write_text("<p>")
    return TaskResult(str(folder), {"distance": 0.5})


def _recorded() -> dict[str, list[tuple[int, float]]]:
    (folder,) = outbox().iterdir()
    return metric_curves(folder)


def test_training_records_its_history(
    finished: TaskResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_result", lambda _location: finished)
    settings = TrainingSettings.of(resolve("pocket")).model_dump_json()
    done = training.train(
        settings, reference_images="r", discriminator="d", workspace=str(tmp_path), processes=1
    )
    assert done is finished
    assert _recorded() == {"step": [(1, 1.0)], "loss": [(1, 0.5)]}


def test_pretraining_records_its_history(
    finished: TaskResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "find_result", lambda _location: finished)
    settings = PretrainingSettings.of(resolve("pocket")).model_dump_json()
    done = pretraining.pretrain_reward(settings, reference_images="r", workspace=str(tmp_path))
    assert done is finished
    assert _recorded()["loss"] == [(1, 0.5)]


def test_an_evaluation_records_its_metrics(finished: TaskResult) -> None:
    with record_task("evaluate", "") as run:
        record_evaluation(run, resolve("pocket"), finished)
    assert _recorded() == {"distance": [(0, 0.5)]}
