import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from advgrpo import __version__
from advgrpo.cli.main import app, main
from advgrpo.config import resolve
from advgrpo.errors import PromptFileError

run = CliRunner().invoke

COMMANDS = (
    *("config", "reference-images", "pretrain-reward", "train", "evaluate", "generate"),
    *("prompts", "register", "pipeline", "demo", "demo-ui", "registry", "tracking"),
    *("submit", "doctor", "scorers", "cluster", "plan", "status"),
)


def test_help_answers_within_a_second() -> None:
    # CPU time of the fastest of three: a loaded machine must not fail this.
    def seconds() -> float:
        import resource

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "advgrpo.cli.main", "--help"], check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1


def test_help_names_every_command() -> None:
    output = run(app, ["--help"]).output
    for command in COMMANDS:
        assert command in output


def test_the_version_is_the_packages() -> None:
    assert run(app, ["--version"]).output.strip() == __version__


def test_printed_settings_are_a_preset(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    shown = run(app, ["config", "show", "--set", "training.updates=7"])
    run(app, ["config", "show", "--set", "training.updates=7", "--output", str(file)])
    assert yaml.safe_load(shown.output) == yaml.safe_load(file.read_text())
    assert resolve(str(file)).training.updates == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "show", "--set", "training.updats=1"], "did you mean training.updates?"),
        (["config", "show", "--preset", "nothing"], "preset=nothing: is not a preset"),
        (["config", "validate", "--processes", "3"], "3 training processes cannot share"),
        (["pipeline", "run"], "MLFLOW_TRACKING_URI is not set"),
        (["tracking", "send"], "MLFLOW_TRACKING_URI is not set"),
        (["registry", "list"], "MLFLOW_TRACKING_URI is not set"),
        (["registry", "promote", "x", "--override"], "--override needs --reason"),
        (["registry", "promote", "x", "--reason", "y"], "--reason needs --override"),
        (["demo-ui", "--folder", "nowhere"], "no demo has run in nowhere"),
        (["status", "nowhere"], "nowhere is not a folder, and without an MLflow server"),
        (["status", "no/where"], "there is no heartbeat of a run in no/where"),
        (["pipeline", "run", "--pipeline", "none.yaml"], "--pipeline=none.yaml: does not exist"),
    ],
)
def test_an_expected_error_is_a_message_with_a_repair_and_an_exit_status(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["advgrpo", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "repair: " in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("command", [["config", "validate"], ["pipeline", "run"]])
def test_prompts_of_another_hash_are_refused_before_anything_starts(command: list[str]) -> None:
    wrong = f"prompts.train_sha256={'ab' * 32}"
    refused = run(app, [*command, "--set", wrong])
    assert isinstance(refused.exception, PromptFileError)
    assert wrong in refused.exception.message
    assert "set prompts.train_sha256=" in refused.exception.repair


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "run.yaml"
    ended = subprocess.run(
        [sys.executable, "-m", "advgrpo.cli.main", "config", "show", "--output", str(missing)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "FileNotFoundError" in ended.stderr


def test_the_pipeline_compiles_to_any_file(tmp_path: Path) -> None:
    target = tmp_path / "pipeline.yaml"
    assert run(app, ["pipeline", "compile", "--output", str(target)]).exit_code == 0
    assert "adversarial-grpo" in target.read_text()


def test_a_table_becomes_a_prompt_file_whose_hash_is_printed(tmp_path: Path) -> None:
    table, file = tmp_path / "parti.tsv", tmp_path / "prompts.txt"
    table.write_text("Prompt\tNote\na cat\t\na dog\tx\na cat\t\n", encoding="utf-8")
    command = ["prompts", "import", str(table), "--output", str(file)]

    refused, done = run(app, command), run(app, [*command, "--drop-repeats"])

    assert isinstance(refused.exception, PromptFileError)
    assert file.read_text("utf-8") == "a cat\na dog\n"
    assert "dropped 1 repeats" in done.output
    assert f"2 prompts, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}" in done.output


def test_a_list_is_cleaned_of_repeats_marks_and_the_prompts_of_the_other_split(
    tmp_path: Path,
) -> None:
    listed, test, file = tmp_path / "list.txt", tmp_path / "test.txt", tmp_path / "prompts.txt"
    listed.write_text("a cat\n\ufeffa dog\nA cat\na hen\n", encoding="utf-8")
    test.write_text("A hen\n", encoding="utf-8")
    command = ["prompts", "import", str(listed), "--output", str(file), "--exclude", str(test)]

    done = run(app, [*command, "--drop-repeats", "--strip-byte-order-marks"])

    assert done.exit_code == 0
    assert file.read_text("utf-8") == "a cat\na dog\n"
    assert f"left out 1 prompts of {test}" in done.output
    test.write_text("a cat\nA dog\na hen\n", encoding="utf-8")
    refused = run(app, [*command, "--drop-repeats", "--strip-byte-order-marks"])
    assert isinstance(refused.exception, PromptFileError)


def test_a_command_without_its_packages_names_the_extra() -> None:
    program = (
        "import sys; sys.modules['kfp'] = None; sys.argv = ['advgrpo', 'pipeline', 'upload']\n"
        "from advgrpo.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'advgrpo[pipeline]'" in done.stderr
