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


def _heartbeat(workspace: Path, role: str = "task") -> dict[str, Any]:
    file = workspace / "runs" / WITHOUT_MLFLOW / "train" / f"{role}.json"
    beat: dict[str, Any] = json.loads(file.read_text())
    return beat


def _wait_for(workspace: Path, key: str) -> dict[str, Any]:
    """Wait until the heartbeat has a field."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with suppress(FileNotFoundError):
            if _heartbeat(workspace).get(key):
                break
        time.sleep(0.01)
    return _heartbeat(workspace)


def test_a_heartbeat_holds_state_and_progress(tmp_path: Path) -> None:
    with heartbeat("train", str(tmp_path), ""):
        Progress("drawing", 4, "images").advance(3, {"reward": 0.5})
        beat = _wait_for(tmp_path, "progress")
        assert beat["state"] == "running"
        assert beat["pid"] == os.getpid()
    beat = _heartbeat(tmp_path)
    assert beat["state"] == "finished"
    assert beat["progress"]["done"] == 3
    assert beat["progress"]["metrics"] == {"reward": 0.5}
    assert beat["started"] <= beat["progress"]["at"] <= beat["ended"] <= beat["heartbeat_at"]


def test_a_heartbeat_holds_checkpoint_result_and_the_last_warnings(tmp_path: Path) -> None:
    with heartbeat("train", str(tmp_path), ""):
        facts = {"update": 2, "rollout": 3, "place": "s3://b/checkpoints"}
        logger.info("saved", extra=machine_event("checkpoint_saved", **facts))
        logger.info("kept", extra=machine_event("result_saved", place="s3://b/result"))
        logger.info("neither")
        for number in range(20):
            logger.warning("beware %d", number)
    beat = _heartbeat(tmp_path)
    assert facts.items() <= beat["checkpoint"].items()
    assert beat["result"] == "s3://b/result"
    assert [one["text"] for one in beat["warnings"]] == [f"beware {n}" for n in range(10, 20)]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (StorageFullError("the disk is full", repair="free some"), "failed"),
        (KeyError("x"), "failed"),
        (Preempted("stopped"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_a_heartbeat_holds_the_failure(error: BaseException, state: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), heartbeat("train", str(tmp_path), ""):
        raise error
    beat = _heartbeat(tmp_path)
    assert beat["state"] == state
    assert beat["failure"]["kind"] == type(error).__name__
    if isinstance(error, StorageFullError):
        assert beat["failure"]["message"] == "the disk is full"
        assert beat["failure"]["repair"] == "free some"


def test_only_the_first_rank_writes_a_heartbeat(tmp_path: Path) -> None:
    with heartbeat("train", str(tmp_path), ""):
        for rank in ("0", "1"):
            with environment({"RANK": rank}), rank_heartbeat():
                logger.warning("from rank %s", rank)
    assert [one["text"] for one in _heartbeat(tmp_path, "rank")["warnings"]] == ["from rank 0"]
    assert len(_heartbeat(tmp_path)["warnings"]) == 2
    files = {file.name for file in (tmp_path / "runs" / WITHOUT_MLFLOW / "train").iterdir()}
    assert files == {"rank.json", "task.json"}


def test_a_rank_outside_of_a_task_writes_no_heartbeat() -> None:
    with rank_heartbeat():
        assert progress.listeners == []


def test_a_workspace_that_cannot_be_written_does_not_stop_the_task(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with heartbeat("train", str(tmp_path), ""):
        Progress("drawing", 4, "images").advance()
    write_run_info(str(tmp_path), "", {})
    assert (tmp_path / "runs").is_file()


def test_logging_is_restored_afterwards(tmp_path: Path) -> None:
    ours = logging.getLogger("advgrpo")
    before = ours.level, ours.handlers[:]
    with heartbeat("train", str(tmp_path), ""):
        assert ours.isEnabledFor(logging.INFO)
    assert (ours.level, ours.handlers) == before


def test_a_killed_process_leaves_its_last_heartbeat(tmp_path: Path) -> None:
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
    beat = _heartbeat(tmp_path)
    assert beat["state"] == "running"
    assert "ended" not in beat


def test_a_heartbeat_contains_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "planted-by-a-test")
    with pytest.raises(ValueError, match="planted"), heartbeat("train", str(tmp_path), ""):
        logger.warning("it answers that planted-by-a-test is wrong")
        raise ValueError("planted-by-a-test")
    beat = _heartbeat(tmp_path)
    assert beat["warnings"][0]["text"] == "it answers that *** is wrong"
    assert beat["failure"]["message"] == "***"
    assert "planted" not in json.dumps(beat)
