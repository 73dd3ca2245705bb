"""`advgrpo init` and `advgrpo config pin`, against a local model hub."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from advgrpo.cli.init import PromptSets
from advgrpo.cli.main import app
from advgrpo.config import resolve
from advgrpo.config.preset_files import read_preset
from advgrpo.config.required import missing_settings
from advgrpo.data.prompt_sets import PROMPT_SETS, PromptSource
from advgrpo.errors import AdvGrpoError, ConfigError
from tests.hub import COMMIT, local_hub

OLD, NEW = "a" * 40, COMMIT


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A model hub with any repository but facebook/dinov2-large; the repositories asked for."""
    with local_hub(missing="facebook/dinov2-large") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub.asked


@pytest.fixture(autouse=True)
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.txt"
    file.write_text("".join(f"a cat on {i} boxes\n" for i in range(200)), encoding="utf-8")
    return file


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def _init(preset: str = "sd35m_dino", *arguments: str) -> Result:
    own = "evaluation.distance.weights.location=models/dinov2-large"
    return _run("init", preset, "--prompts", "mine.txt", "--set", own, *arguments)


def test_one_command_makes_a_preset_complete(asked: list[str], prompts: Path) -> None:
    result = _init()
    assert result.exit_code == 0, result.output
    config = resolve("run.yaml")
    assert config.policy.weights.revision == NEW
    assert config.evaluation.distance.weights.location == "models/dinov2-large"
    train, test = (
        Path(file).read_text().splitlines() for file in (config.prompts.train, config.prompts.test)
    )
    assert sorted(train + test) == sorted(prompts.read_text().splitlines())
    assert 5 < len(test) < 50
    assert len(asked) == len(set(asked)) == 5
    assert "next: advgrpo plan --preset run.yaml" in result.output
    planned = _run("plan", "--preset", "run.yaml", "--gpus", "8")
    assert planned.exit_code == 0, planned.exception
    assert "GiB" in planned.output


@pytest.mark.usefixtures("asked")
def test_text_files_of_prompts_are_used_in_place() -> None:
    Path("test.txt").write_text("a dog\n", encoding="utf-8")
    assert _init("sd35m_dino", "--test-prompts", "test.txt").exit_code == 0
    assert resolve("run.yaml").prompts.train == "mine.txt"
    assert resolve("run.yaml").prompts.test == "test.txt"


def test_too_few_prompts_to_evaluate_on_are_refused_before_files_are_written(
    prompts: Path, tmp_path: Path
) -> None:
    prompts.write_text("a cat\na dog\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"none of its 2 prompts .* tenth") as caught:
        raise _init().exception or AssertionError
    assert "--test-prompts" in caught.value.repair
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("asked")
def test_tables_of_prompts_become_text_files() -> None:
    Path("test.csv").write_text("Prompt,Note\na dog,x\n", encoding="utf-8")
    assert _init("sd35m_dino", "--test-prompts", "test.csv").exit_code == 0
    assert Path(resolve("run.yaml").prompts.test).read_text() == "a dog\n"


@pytest.mark.usefixtures("asked")
def test_repositories_that_the_hub_lacks_are_named_and_the_others_pinned() -> None:
    result = _run("init", "sd35m_dino", "--prompts", "mine.txt")
    assert isinstance(result.exception, AdvGrpoError)
    assert "1 of 6 repositories are not pinned" in result.exception.message
    assert "facebook/dinov2-large: COMMIT" in result.exception.repair
    assert list(missing_settings(read_preset("run.yaml").settings)) != []
    assert yaml.safe_load(Path("run.yaml").read_text())["revisions"]["Qwen/Qwen-Image"] == NEW


def test_without_a_network_the_file_is_written_and_the_repair_names_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = _init()
    assert isinstance(result.exception, AdvGrpoError)
    assert "5 of 5 repositories" in result.exception.message
    assert "config pin run.yaml" in result.exception.repair
    assert result.exception.repair.count("COMMIT") == 5
    assert yaml.safe_load(Path("run.yaml").read_text())["extends"] == "sd35m_dino"


@pytest.mark.usefixtures("asked")
def test_pinning_renews_commits_and_keeps_all_else() -> None:
    assert _init().exit_code == 0
    file = Path("run.yaml")
    text = file.read_text() + "# mine\ntraining:\n  updates: 3\n"
    file.write_text(text.replace(NEW, OLD))
    assert resolve("run.yaml").policy.weights.revision == OLD
    result = _run("config", "pin", "run.yaml")
    assert result.exit_code == 0
    assert file.read_text() == text


def test_a_commit_set_at_the_model_is_not_renewed(asked: list[str]) -> None:
    own = [f"--set={key}.revision={OLD}" for key in ("discriminator.weights",)]
    own += [f"--set=evaluation.scorers.2.weights.revision={OLD}"]
    assert _init("sd35m_dino", *own).exit_code == 0
    assert "facebook/dinov2-base" not in asked
    assert resolve("run.yaml").discriminator.weights.revision == OLD


@pytest.mark.usefixtures("asked")
def test_nothing_is_overwritten() -> None:
    assert _init().exit_code == 0
    assert "run.yaml exists" in str(_init().exception)
    Path("run.yaml").unlink()
    assert "run-train.txt exists" in str(_init().exception)
    assert not Path("run.yaml").exists()


def test_a_wrong_key_is_reported_before_anything_is_written(asked: list[str]) -> None:
    assert "unknown key" in str(_init("sd35m_dino", "--set", "training.update=3").exception)
    assert asked == []
    assert [file.name for file in Path().iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("asked")
def test_a_file_can_be_extended_from_another_folder() -> None:
    assert _init().exit_code == 0
    Path("below").mkdir()
    result = _run("init", "run.yaml", "--output", "below/other.yaml")
    assert result.exit_code == 0, result.exception
    assert resolve("below/other.yaml").to_yaml() == resolve("run.yaml").to_yaml()


def test_shown_settings_mark_what_is_not_set() -> None:
    shown = _run("config", "show", "--preset", "sd35m_dino").output
    assert "  train: null  # not set\n" in shown
    assert "  location: hub://facebook/dinov2-base\n    revision: null  # not set\n" in shown
    Path("shown.yaml").write_text(shown)
    with pytest.raises(AdvGrpoError, match=r"revisions\.Qwen/Qwen-Image"):
        resolve("shown.yaml")


def test_prompts_given_in_two_ways_are_refused() -> None:
    result = _init("sd35m_dino", "--set", "prompts.test=other.txt")
    assert "both given" in str(result.exception)
    assert not Path("run-train.txt").exists()


@pytest.mark.usefixtures("asked")
def test_texts_that_look_like_numbers_stay_texts() -> None:
    assert _init("sd35m_dino", "--set", 'promotion.registered_model="1e4"').exit_code == 0
    assert resolve("run.yaml").promotion.registered_model == "1e4"


def test_without_the_hubs_package_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes an import fail.
    monkeypatch.setitem(sys.modules, "advgrpo.storage.hub", None)
    assert isinstance(_init().exception, ModuleNotFoundError)
    assert [file.name for file in Path().iterdir()] == ["mine.txt"]


def test_a_prompt_set_is_downloaded_once_and_checked(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVGRPO_CACHE", str(tmp_path / "cache"))
    table = tmp_path / "set.tsv"
    table.write_text("Prompt\tNote\n" + "".join(f"a dog on {i} mats\t\n" for i in range(100)))
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    own = ["--set", "evaluation.distance.weights.location=models/dinov2-large"]

    def init(output: str, sha256: str) -> Result:
        source = PromptSource(table.as_uri(), sha256, "Prompt", "Apache-2.0")
        monkeypatch.setitem(PROMPT_SETS, "parti", source)
        return _run("init", "sd35m_dino", "--prompt-set", "parti", "--output", output, *own)

    refused = init("a.yaml", "0" * 64)
    assert "is not the expected version" in str(refused.exception)
    result = init("b.yaml", digest)
    assert result.exit_code == 0, result.output
    table.unlink()
    assert init("c.yaml", digest).exit_code == 0
    assert len(Path(resolve("c.yaml").prompts.train).read_text().splitlines()) == 90
    missing = init("d.yaml", "1" * 64)
    assert "and use --prompts FILE" in getattr(missing.exception, "repair", "")
    assert asked


def test_every_prompt_set_is_a_choice() -> None:
    assert {choice.value for choice in PromptSets} == set(PROMPT_SETS)
