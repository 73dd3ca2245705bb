import subprocess
import sys

import pytest

from advgrpo.config import resolve
from advgrpo.config.tasks import (
    PretrainingSettings,
    ReferenceImagesSettings,
    TrainingSettings,
    digest,
    parse_json,
)
from advgrpo.errors import ConfigError

SETTINGS = [ReferenceImagesSettings, PretrainingSettings, TrainingSettings]
TaskSettings = type[ReferenceImagesSettings] | type[PretrainingSettings] | type[TrainingSettings]


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_survive_a_round_trip_through_json(kind: TaskSettings) -> None:
    settings = kind.of(resolve("pocket"))
    assert parse_json(kind, settings.model_dump_json(), where="settings") == settings


def test_a_changed_learning_rate_changes_training_and_no_task_before_it() -> None:
    before = resolve("pocket")
    after = resolve("pocket", ["training.optimizer.learning_rate=0.5"])
    changed = {
        kind.__name__: digest(kind.of(before)) != digest(kind.of(after)) for kind in SETTINGS
    }
    assert changed == {
        "ReferenceImagesSettings": False,
        "PretrainingSettings": False,
        "TrainingSettings": True,
    }


def test_a_digest_is_the_same_in_another_process() -> None:
    code = (
        "from advgrpo.config import resolve; from advgrpo.config.tasks import *; "
        "print(digest(TrainingSettings.of(resolve('pocket')), 'a'))"
    )
    there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert there.stdout.strip() == digest(TrainingSettings.of(resolve("pocket")), "a")


def test_a_run_resumes_after_a_change_of_settings_that_affect_no_number() -> None:
    safe = ["training.hangs.timeout_seconds=7200", "training.memory_check=warn"]
    safe.append("training.non_finite.action=skip")
    before, after = (TrainingSettings.of(resolve("pocket", more)) for more in ([], safe))
    assert before != after
    assert before.cache_relevant() == after.cache_relevant()
    other = TrainingSettings.of(resolve("pocket", ["training.updates=3"]))
    assert before.cache_relevant() != other.cache_relevant()


def test_a_digest_depends_on_the_inputs() -> None:
    settings = TrainingSettings.of(resolve("pocket"))
    assert len({digest(settings), digest(settings, "a"), digest(settings, "b")}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 50_000, "is not JSON: it is nested too deeply"),
        ('{"seed": 1, "seed": 2}', "the key 'seed' occurs twice"),
        ("[1]", "instead of settings"),
        ("{}", "seed"),
    ],
)
def test_texts_without_settings_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="the parameter") as caught:
        parse_json(TrainingSettings, text, where="the parameter")
    assert said in str(caught.value)
