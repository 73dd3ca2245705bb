import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from advgrpo import __version__
from advgrpo.cli.main import app, main
from advgrpo.config import resolve

run = CliRunner().invoke

COMMANDS = (
    *("config", "reference-images", "pretrain-reward", "train", "evaluate", "generate"),
    *("register", "pipeline", "demo", "demo-ui", "tracking"),
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
    said = run(app, ["--help"]).output
    for command in COMMANDS:
        assert command in said


def test_the_version_is_the_packages() -> None:
    assert run(app, ["--version"]).output.strip() == __version__


def test_settings_are_shown_as_yaml_that_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    shown = run(app, ["config", "show", "--set", "training.updates=7"])
    run(app, ["config", "show", "--set", "training.updates=7", "--output", str(file)])
    assert yaml.safe_load(shown.output) == yaml.safe_load(file.read_text())
    assert resolve(str(file)).training.updates == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config", "show", "--set", "training.updats=1"], "did you mean training.updates?"),
        (["config", "show", "--preset", "nothing"], "there is no preset 'nothing'"),
        (["config", "validate", "--processes", "3"], "3 training processes cannot share"),
        (["tracking", "send"], "there is no MLflow server"),
        (["demo-ui", "--folder", "nowhere"], "no demo has run in nowhere yet"),
        (["pipeline", "run", "--pipeline", "none.yaml"], "there is no compiled pipeline none.yaml"),
    ],
)
def test_an_error_of_ours_is_a_message_with_a_repair_and_an_exit_status(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["advgrpo", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "repair: " in shown
    assert "Traceback" not in shown


def test_a_fault_keeps_its_traceback(tmp_path: Path) -> None:
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
