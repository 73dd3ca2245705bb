import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from advgrpo.errors import Preempted, StorageFullError
from advgrpo.runtime import heartbeat as heartbeat_module
from advgrpo.runtime.environment import environment
from advgrpo.runtime.heartbeat import WITHOUT_MLFLOW, heartbeat, rank_heartbeat, write_run_info
from advgrpo.telemetry import progress
from advgrpo.telemetry.logging import machine_event
from advgrpo.telemetry.progress import Progress

logger = logging.getLogger("advgrpo.somewhere")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(heartbeat_module, "_MIN_SECONDS_BETWEEN", 0.01)
    yield
    assert progress.listeners == []


def _told(workspace: Path, role: str = "task") -> dict[str, Any]:
    file = workspace / "runs" / WITHOUT_MLFLOW / "train" / f"{role}.json"
    told: dict[str, Any] = json.loads(file.read_text())
    return told


def _soon(workspace: Path, key: str) -> dict[str, Any]:
    """Wait until a file tells something."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            if _told(workspace).get(key):
                break
        time.sleep(0.01)
    return _told(workspace)


def test_a_task_tells_that_it_lives_and_how_far_it_is(tmp_path: Path) -> None:
    with heartbeat("train", str(tmp_path), ""):
        Progress("drawing", 4, "images").advance(3, {"reward": 0.5})
        told = _soon(tmp_path, "progress")
        assert told["state"] == "running"
        assert told["pid"] == os.getpid()
    told = _told(tmp_path)
    assert told["state"] == "finished"
    assert told["progress"]["done"] == 3
    assert told["progress"]["metrics"] == {"reward": 0.5}
    assert told["started"] <= told["progress"]["at"] <= told["ended"] <= told["heartbeat_at"]


def test_it_tells_of_checkpoints_results_and_what_was_warned_of(tmp_path: Path) -> None:
    with heartbeat("train", str(tmp_path), ""):
        facts = {"update": 2, "turn": 3, "place": "s3://b/checkpoints"}
        logger.info("saved", extra=machine_event("checkpoint_saved", **facts))
        logger.info("kept", extra=machine_event("result_saved", place="s3://b/result"))
        logger.info("of no interest")
        for number in range(20):
            logger.warning("beware %d", number)
    told = _told(tmp_path)
    assert facts.items() <= told["checkpoint"].items()
    assert told["result"] == "s3://b/result"
    assert [one["text"] for one in told["warnings"]] == [f"beware {n}" for n in range(10, 20)]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (StorageFullError("the disk is full", repair="free some"), "failed"),
        (KeyError("x"), "failed"),
        (Preempted("asked to stop"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_it_tells_how_it_ended(error: BaseException, state: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), heartbeat("train", str(tmp_path), ""):
        raise error
    told = _told(tmp_path)
    assert told["state"] == state
    assert told["failure"]["kind"] == type(error).__name__
    if isinstance(error, StorageFullError):
        assert told["failure"]["message"] == "the disk is full"
        assert told["failure"]["repair"] == "free some"


def test_the_first_rank_has_a_file_of_its_own_and_the_others_have_none(tmp_path: Path) -> None:
    with heartbeat("train", str(tmp_path), ""):
        for rank in ("0", "1"):
            with environment({"RANK": rank}), rank_heartbeat():
                logger.warning("from rank %s", rank)
    assert [one["text"] for one in _told(tmp_path, "rank")["warnings"]] == ["from rank 0"]
    assert len(_told(tmp_path)["warnings"]) == 2
    files = {file.name for file in (tmp_path / "runs" / WITHOUT_MLFLOW / "train").iterdir()}
    assert files == {"rank.json", "task.json"}


def test_a_rank_that_was_started_by_hand_tells_nothing() -> None:
    with rank_heartbeat():
        assert progress.listeners == []


def test_a_workspace_that_cannot_be_written_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with heartbeat("train", str(tmp_path), ""):
        Progress("drawing", 4, "images").advance()
    write_run_info(str(tmp_path), "", {})
    assert (tmp_path / "runs").is_file()


def test_logging_is_as_it_was_afterwards(tmp_path: Path) -> None:
    ours = logging.getLogger("advgrpo")
    before = ours.level, ours.handlers[:]
    with heartbeat("train", str(tmp_path), ""):
        assert ours.isEnabledFor(logging.INFO)
    assert (ours.level, ours.handlers) == before


def test_a_process_that_is_killed_leaves_what_it_last_told(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from advgrpo.runtime.heartbeat import heartbeat\n"
        "with heartbeat('train', sys.argv[1], ''):\n"
        "    while not list(Path(sys.argv[1]).rglob('task.json')):\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    told = _told(tmp_path)
    assert told["state"] == "running"
    assert "ended" not in told


def test_no_sign_of_life_tells_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "planted-by-a-test")
    with pytest.raises(ValueError, match="planted"), heartbeat("train", str(tmp_path), ""):
        logger.warning("it answers that planted-by-a-test is wrong")
        raise ValueError("planted-by-a-test")
    told = _told(tmp_path)
    assert told["warnings"][0]["text"] == "it answers that *** is wrong"
    assert told["failure"]["message"] == "***"
    assert "planted" not in json.dumps(told)
