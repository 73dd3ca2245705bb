import subprocess
import sys

import pytest

from advgrpo.config import resolve
from advgrpo.config.resolution import resolve_generation
from advgrpo.config.tasks import (
    GenerationSettings,
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
    safe += ["training.non_finite.action=skip", "tracking.also=[wandb]"]
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


def test_generation_reads_the_policy_and_the_sampling_of_a_preset_alone() -> None:
    found = resolve_generation(
        "sd35m_dino", [f"policy.weights.revision={'a' * 40}", "policy.resolution_pixels=1024"]
    )
    assert found.policy.resolution_pixels == 1024
    assert found.sampling == resolve("sd35m_dino", needed=()).training.sampling
    # The judge of the pocket world reads images of 32 pixels.
    assert resolve_generation("pocket", ["policy.resolution_pixels=64"]).policy is not None
    assert resolve_generation("pocket") == GenerationSettings.of(resolve("pocket"))


def test_held_out_and_generated_images_take_the_steps_of_the_evaluation() -> None:
    steps = ["training.sampling.num_inference_steps=5", "evaluation.num_inference_steps=9"]
    run = resolve("pocket_nft", steps)
    assert run.evaluation_sampling.num_inference_steps == 9
    assert run.training.sampling.num_inference_steps == 5
    assert TrainingSettings.of(run).evaluation_sampling == run.evaluation_sampling
    assert resolve_generation("pocket_nft", steps) == GenerationSettings.of(run)
    assert resolve_generation("pocket_nft", steps).sampling.num_inference_steps == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.samplin.guidance_scale=1", "unknown key"),
        ("evaluation.batch_sise=1", "did you mean evaluation.batch_size"),
        ("policy.resolution_pixels=0", "policy.resolution_pixels=0"),
        ("training=3", "training=3"),
        ("policy.weights={location: 'hub://a/b'}", "--set revisions.a/b=COMMIT"),
    ],
)
def test_generation_refuses_settings_that_are_wrong_or_misspelled(
    override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_generation("pocket", [override])
    assert message in str(caught.value)
