import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advgrpo.errors import PipelineError, RatioError, StorageFullError
from advgrpo.runtime.failures import FAILURE_FILE, read_failure, record_failures, run_as_process
from advgrpo.telemetry.progress import PROGRESS_FILE


@pytest.fixture
def failure_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FAILURE_FILE, str(tmp_path / "failure.json"))
    return tmp_path / "failure.json"


def test_an_error_of_ours_is_raised_with_its_class_in_the_parent(failure_file: Path) -> None:
    with pytest.raises(RatioError), record_failures("train"):
        raise RatioError("the ratio is 2", repair="make it 1")
    failure = read_failure(failure_file)
    assert failure is not None
    error = failure.error()
    assert isinstance(error, RatioError)
    assert str(error) == "the ratio is 2\n  repair: make it 1"


def test_any_other_error_names_its_task(failure_file: Path) -> None:
    with pytest.raises(KeyError), record_failures("evaluate"):
        raise KeyError("missing")
    failure = read_failure(failure_file)
    assert failure is not None
    assert isinstance(failure.error(), PipelineError)
    assert "the task evaluate failed: KeyError: 'missing'" in str(failure.error())


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"task": 1, "x": 2}', "[" * 50_000, "\0"])
def test_a_file_of_another_schema_is_ignored(failure_file: Path, content: str) -> None:
    failure_file.write_text(content)
    assert read_failure(failure_file) is None


def test_the_first_failure_is_kept(failure_file: Path) -> None:
    for message in ("cause", "consequence"):
        with pytest.raises(StorageFullError), record_failures("train"):
            raise StorageFullError(message)
    failure = read_failure(failure_file)
    assert failure is not None
    assert failure.message == "cause"


def test_a_finished_task_leaves_no_failure(failure_file: Path) -> None:
    with record_failures("train"):
        pass
    assert read_failure(failure_file) is None


def test_start_and_end_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress.jsonl"))
    with record_failures("train"):
        pass
    started, finished = (tmp_path / "progress.jsonl").read_text().splitlines()
    assert "started" in started
    assert "finished" in finished


def test_a_process_ends_with_the_errors_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise StorageFullError("the disk is full")

    with pytest.raises(SystemExit) as caught:
        run_as_process(fail)
    assert caught.value.code == StorageFullError.exit_code
    assert capsys.readouterr().err == "error: the disk is full\n"


_PROGRAM = """
import sys
from pathlib import Path
from advgrpo.errors import ConfigError
from advgrpo.runtime import failures

failures._TERMINATION_LOG = Path(sys.argv[1])
with failures.record_failures("resolve-config"):
    if sys.argv[2] == "refused":
        raise ConfigError("workspace=w: is local", repair="use s3://")
    raise KeyError("missing")
"""


def _ended(message: Path, how: str, **variables: str) -> str:
    message.touch()
    program = [sys.executable, "-c", _PROGRAM, str(message), how]
    ended = subprocess.run(
        program, check=False, capture_output=True, text=True, env=os.environ | variables
    )
    assert ended.returncode == 1
    return ended.stderr


def test_a_refused_task_reports_reason_and_repair_instead_of_a_traceback(tmp_path: Path) -> None:
    message = tmp_path / "message"
    log = _ended(message, "refused", ADVGRPO_CLUSTER="{}")
    assert log.endswith("error: workspace=w: is local\n  repair: use s3://\n")
    assert "Traceback" not in log
    assert message.read_text() == "workspace=w: is local\n  repair: use s3://"
    log = _ended(message, "refused", ADVGRPO_CLUSTER="{}", ADVGRPO_LOG_FORMAT="json")
    last = json.loads(log.splitlines()[-1])
    assert (last["event"], last["repair"]) == ("error", "use s3://")


def test_a_bug_is_summarized_above_its_traceback(tmp_path: Path) -> None:
    message = tmp_path / "message"
    log = _ended(message, "broken", ADVGRPO_CLUSTER="{}")
    reason, _, trace = log.partition("Traceback")
    assert "error: KeyError: 'missing'\n  repair: this is a bug in advgrpo" in reason
    assert trace.endswith("KeyError: 'missing'\n")
    assert message.read_text().startswith("KeyError: 'missing'\n  repair: ")


def test_a_jobs_pod_keeps_the_end_of_its_log_as_its_message(tmp_path: Path) -> None:
    message = tmp_path / "message"
    _ended(message, "refused", ADVGRPO_CLUSTER="")
    assert message.read_text() == ""
