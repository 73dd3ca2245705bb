from pathlib import Path

import pytest

from advgrpo.config import preset_title, resolve
from advgrpo.errors import ConfigError, PromptFileError
from advgrpo.kfp_client import paths_in_image, run_arguments
from advgrpo.kfp_client.runs import Arguments

WORKSPACE = "s3://bucket/runs"


def _arguments(
    preset: str = "pocket", *overrides: str, processes: int = 1, workspace: str = WORKSPACE
) -> Arguments:
    return run_arguments(preset, overrides, processes=processes, workspace=workspace)


def test_the_arguments_are_sent() -> None:
    assert _arguments("pocket", "seed=1", processes=2) == {
        "workspace": WORKSPACE,
        "preset": "pocket",
        "settings_yaml": "",
        "overrides": ["seed=1"],
        "processes": 2,
        "mlflow_run_key": "",
    }


def test_a_local_file_is_sent_as_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(resolve("pocket", ["training.updates=7"]).to_yaml(), encoding="utf-8")
    sent = _arguments(str(file), "seed=3")
    file.unlink()
    preset, overrides = sent["settings_yaml"], sent["overrides"]
    assert sent["preset"] == "custom"
    assert isinstance(preset, str)
    assert isinstance(overrides, list)
    config = resolve(preset, overrides)
    assert config == resolve("pocket", ["training.updates=7", "seed=3"])
    assert preset_title(preset) == "mine.yaml"


def test_a_file_that_extends_another_file_is_sent_merged(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: pocket\ntraining: {updates: 7}\n")
    file = tmp_path / "mine.yaml"
    file.write_text("extends: base.yaml\nseed: 3\n")
    sent = str(_arguments(str(file))["settings_yaml"])
    assert resolve(sent) == resolve("pocket", ["training.updates=7", "seed=3"])
    assert preset_title(sent) == "mine.yaml"
    file.write_text("extends: pocket\nseed: 3\n")
    assert _arguments(str(file))["settings_yaml"] == "# mine.yaml\nextends: pocket\nseed: 3\n"


def test_a_file_of_one_line_is_sent_as_text(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(str(resolve("pocket").model_dump(mode="json")).replace("None", "null"))
    assert resolve(str(_arguments(str(file))["settings_yaml"])) == resolve("pocket")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "pockt"}, "preset=pockt: is not a preset; did you mean pocket"),
        ({"preset": "none.yaml"}, "cannot be read"),
        ({"processes": 3}, "3 training processes cannot share"),
        ({"workspace": "workspace"}, "workspace='workspace' cannot be reached"),
        ({"workspace": ""}, "cannot be reached"),
    ],
)
def test_what_the_cluster_would_refuse_is_refused_locally(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _arguments(**arguments)  # type: ignore[arg-type]


def test_an_invalid_setting_is_refused_locally() -> None:
    with pytest.raises(ConfigError, match=r"did you mean training\.updates"):
        _arguments("pocket", "training.updats=7")


def test_a_relative_path_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.train=prompts\.txt is a local path"):
        _arguments("pocket", "prompts.train=prompts.txt")


def test_an_absolute_path_may_exist_in_the_image() -> None:
    changed = ["policy.weights.location=/models/sd3"]
    _arguments("pocket", *changed)
    assert paths_in_image("pocket", changed) == {"policy.weights.location": "/models/sd3"}


def test_packaged_prompts_are_read_locally() -> None:
    shared = "prompts.test=package://advgrpo.pocket/prompts/train.txt"
    with pytest.raises(PromptFileError, match=r"prompts\.test"):
        _arguments("pocket", shared)


def test_a_wrong_hash_of_packaged_prompts_is_refused_locally() -> None:
    wrong = f"prompts.train_sha256={'ab' * 32}"
    with pytest.raises(PromptFileError, match=wrong) as refusal:
        _arguments("pocket", wrong)
    assert "set prompts.train_sha256=" in refusal.value.repair


def test_nodes_that_would_be_half_empty_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVGRPO_CLUSTER", '{"image": "trainer", "gpus_per_node": 1}')
    _arguments(processes=2)
    monkeypatch.setenv("ADVGRPO_CLUSTER", '{"image": "trainer", "processes_per_node": 3}')
    with pytest.raises(ConfigError, match="processes=4"):
        _arguments("pocket", "training.rollout.microbatch_size=1", processes=4)


def test_a_file_that_is_too_long_for_a_parameter_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("# " + "x" * 70_000)
    with pytest.raises(ConfigError, match=r"long\.yaml"):
        _arguments(str(file))
