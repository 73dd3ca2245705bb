import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.demo.display import Lines
from advgrpo.demo.phases import PhaseClock
from advgrpo.demo.watched import run_watched
from advgrpo.errors import PipelineError, WeightsError

CHILD = """
import json, os, sys
print("much output")
def tell(**event):
    with open(os.environ["ADVGRPO_PROGRESS_FILE"], "a") as file:
        file.write(json.dumps(event) + "\\n")
tell(task="train", process=1, state="started")
tell(phase="training", done=2, total=2, unit="updates", seconds_left=None, metrics={})
tell(task="train", process=1, state="finished")
if sys.argv[1] == "fail":
    failure = {"task": "train", "kind": "WeightsError", "message": "no weights", "repair": "get"}
    with open(os.environ["ADVGRPO_FAILURE_FILE"], "w") as file:
        json.dump(failure, file)
sys.exit(sys.argv[1] != "end")
"""


def _watch(folder: Path, ending: str) -> str:
    console = Console(file=io.StringIO(), width=100)
    run_watched(
        [sys.executable, "-c", CHILD, ending],
        "pipeline",
        variables={},
        state=folder,
        log_file=folder / "logs" / "pipeline.log",
        display=Lines(console),
        clock=PhaseClock({}),
    )
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_watched_pipeline_shows_phases_and_logs_the_rest(tmp_path: Path) -> None:
    first, step, last = _watch(tmp_path, "end").splitlines()
    assert (first, step) == ("Adversarial training ...", "  training: 2/2 updates")
    assert last.startswith("Adversarial training: done in")
    assert (tmp_path / "logs" / "pipeline.log").read_text() == "much output\n"


def test_a_watched_pipeline_raises_the_error_of_its_task(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights"):
        _watch(tmp_path, "fail")
    # The failure of the earlier run is not taken for that of this one.
    with pytest.raises(PipelineError, match="exit status 1") as caught:
        _watch(tmp_path, "vanish")
    assert "pipeline.log" in caught.value.repair


def test_a_pipeline_run_prints_its_outputs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADVGRPO_LOG_FORMAT", raising=False)
    Path("own.yaml").write_text("{}")
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\necho "$@"\nfor last; do :; done\necho \'{"a": "b"}\' > "$last"\n'
    )
    program.chmod(0o755)
    words = ["pipeline", "run", "--pipeline", "own.yaml"]
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(sys, "argv", ["advgrpo", *words])
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"a": "b"}
    assert "artifacts/pipeline.log" in result.stderr
    called = Path("artifacts/pipeline.log").read_text()
    assert called.startswith("-m advgrpo.cli.main pipeline run --pipeline own.yaml --verbose")
