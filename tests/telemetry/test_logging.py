import ast
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advgrpo.errors import ConfigError
from advgrpo.runtime.failures import record_failures
from advgrpo.runtime.processes import launch_processes
from advgrpo.telemetry import logging as events
from advgrpo.telemetry.logging import (
    FORMAT,
    JOB_OUTPUT,
    bind,
    configure,
    event,
    line_to_text,
    machine_event,
)

ROOT = Path(__file__).parents[2]

logger = logging.getLogger("advgrpo.somewhere")


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("advgrpo")
    before = root.handlers[:], root.level, ours.level
    monkeypatch.setattr(events, "_bound", {})
    yield
    root.handlers[:], level, own = before
    root.setLevel(level)
    ours.setLevel(own)
    logging.captureWarnings(capture=False)


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT, "json")


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_the_text_format_shows_messages_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logger.info("update %d", 3, extra=event("update", update=3))
    logger.info("for machines", extra=machine_event("update_finished"))
    assert capsys.readouterr().err == "update 3\n"


@pytest.mark.usefixtures("as_json")
def test_the_json_format_writes_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    bind(run="abc", task="train", rank=0, update=2)
    logger.warning("two\nlines", extra=event("alarm_raised", update=3, loss=float("nan")))
    (line,) = _lines(capsys)
    time = str(line.pop("time"))
    assert time.endswith("+00:00")
    assert line == {
        "level": "warning",
        "event": "alarm_raised",
        "message": "two\nlines",
        "run": "abc",
        "task": "train",
        "rank": 0,
        "update": 3,
        "loss": "nan",
        "logger": "advgrpo.somewhere",
    }


@pytest.mark.usefixtures("as_json")
def test_a_removed_field_is_not_written_any_more(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    bind(run="abc", task="train")
    bind(run=None)
    logger.info("x")
    (line,) = _lines(capsys)
    assert "run" not in line
    assert line["task"] == "train"
    assert line["event"] == "message"


@pytest.mark.usefixtures("as_json")
def test_a_field_cannot_replace_the_fixed_keys(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logger.info("true", extra=event("one", level="none", message="false", path=Path("a")))
    (line,) = _lines(capsys)
    assert (line["level"], line["message"], line["path"]) == ("info", "true", "a")


@pytest.mark.usefixtures("as_json")
def test_json_of_a_jobs_pod_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    theirs = '{"time": "2026-01-01", "event": "update_finished", "message": "m", "update": 1}'
    for line in (theirs, "Traceback (most recent call last):", '{"json": "of somebody else"}'):
        logger.info("%s", line, extra=event(JOB_OUTPUT))
    first, *others = capsys.readouterr().err.splitlines()
    assert first == theirs
    assert [json.loads(line)["event"] for line in others] == [JOB_OUTPUT, JOB_OUTPUT]


def test_an_unknown_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMAT, "xml")
    with pytest.raises(ConfigError, match="ADVGRPO_LOG_FORMAT=xml") as caught:
        configure()
    assert "text or json" in caught.value.repair


def test_a_json_line_is_converted_to_text() -> None:
    line = {"time": "t", "event": "error", "message": "no room", "repair": "free some"}
    assert line_to_text(json.dumps(line)) == "no room\n  repair: free some"
    assert line_to_text('{"a": 1}') == '{"a": 1}'
    assert line_to_text("{broken") == "{broken"
    assert line_to_text("[1]") == "[1]"


@pytest.mark.usefixtures("as_json")
def test_a_task_logs_its_start_and_its_end_once(capsys: pytest.CaptureFixture[str]) -> None:
    with record_failures("train"), record_failures("train"):
        pass
    with pytest.raises(ConfigError), record_failures("evaluate"):
        raise ConfigError("seed=x is not a number", repair="write a number")
    started, finished, _, failed = _lines(capsys)
    assert (started["event"], finished["event"]) == ("task_started", "task_finished")
    assert finished["task"] == "train"
    assert failed["event"] == "task_failed"
    assert (failed["reason"], failed["repair"]) == ("seed=x is not a number", "write a number")


@pytest.mark.usefixtures("as_json")
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (
            "advgrpo.errors.StorageFullError('the disk is full', repair='free some')",
            {"event": "error", "kind": "StorageFullError", "repair": "free some", "exit_status": 5},
        ),
        ("KeyError('x')", {"event": "fault", "kind": "KeyError", "exit_status": 1}),
    ],
)
def test_the_error_that_ends_a_process_is_one_object_as_well(
    raised: str, expected: dict[str, object]
) -> None:
    program = (
        "import warnings, advgrpo.errors\n"
        "from advgrpo.telemetry.logging import configure\n"
        "from advgrpo.runtime.failures import run_as_process\n"
        "def main():\n"
        "    configure()\n"
        "    warnings.warn('look out')\n"
        f"    raise {raised}\n"
        "run_as_process(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    warned, ended = (json.loads(line) for line in done.stderr.splitlines())
    assert warned["level"] == "warning"
    assert "look out" in warned["message"]
    assert expected.items() <= ended.items()
    assert done.returncode == expected["exit_status"]
    assert ("traceback" in ended) is (ended["event"] == "fault")


@pytest.mark.usefixtures("as_json")
def test_ranks_write_objects_that_name_run_and_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "rank_program.py").write_text(
        "import logging\n"
        "from advgrpo.telemetry.logging import configure_rank\n"
        "configure_rank()\n"
        "log = logging.getLogger('advgrpo')\n"
        "log.info('one speaks for all')\n"
        "log.warning('all warn')\n",
        encoding="utf-8",
    )
    bind(run="abc")
    launch_processes("rank_program", [], processes=2, logs=tmp_path / "logs")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line[:1] == "{"]
    lines_of_ranks = sorted((line["message"], line["rank"], line["run"]) for line in lines)
    assert lines_of_ranks == [
        ("all warn", 0, "abc"),
        ("all warn", 1, "abc"),
        ("one speaks for all", 0, "abc"),
    ]


def _names_of_events() -> set[str]:
    """Return the names of all events that the code names by a constant."""
    place = {"event": 0, "machine_event": 0, "note": 0, "report": 1}
    found = set()
    for file in (ROOT / "advgrpo").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                index = place.get(node.func.id, len(node.args))
                for argument in node.args[index : index + 1]:
                    if isinstance(argument, ast.Constant):
                        found.add(str(argument.value))
    return found


def test_the_page_for_operators_names_every_event() -> None:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    named = _names_of_events()
    assert {"update_finished", "janitor_done", "pod_restarted"} <= named
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []


def test_machine_events_do_not_appear_in_the_log_of_another_program(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As KFP's executor does before it calls a component.
    logging.basicConfig(format="[KFP] %(message)s", level=logging.INFO, force=True)
    with record_failures("train"):
        logger.info("seen")
    assert capsys.readouterr().err == "[KFP] seen\n"


def test_a_closed_stream_does_not_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = (tmp_path / "log").open("w", encoding="ascii")
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    events.replace_unencodable()
