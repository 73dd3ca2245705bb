"""Signs of life: what a task is at, in a small file of the workspace, for whoever asks.

Each process that speaks for a task writes one of its own, now and then and at its end, in a thread:
a store that is slow or away holds nothing up. `advgrpo status` reads them
(`runtime/run_status_collection.py`).

    runs/<run>/<task>/<role>.json
"""

import json
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from advgrpo.errors import AdvGrpoError, Preempted
from advgrpo.redaction import redact
from advgrpo.runtime.failures import BUG_REPAIR
from advgrpo.storage import join, storage_for
from advgrpo.telemetry import progress
from advgrpo.telemetry.logging import event_of

RUNS = "runs"
"""Folder of a workspace with the signs of life of its runs."""

WITHOUT_MLFLOW = "without-mlflow"
"""Stands for the run's id where there is none."""

RUN_FILE = "run.json"
BEAT_SECONDS = 30.0
"""Longest time between two writes of a process that lives."""

_FOLDER = "ADVGRPO_HEARTBEAT_DIR"
"""Environment variable by which ranks know where the task's signs of life are."""

_LEAST_SECONDS = 5.0
_END_SECONDS = 10.0
_WARNINGS_KEPT = 10
_LONGEST_TEXT = 2000

_logger = logging.getLogger("advgrpo")


def run_folder(workspace: str, run_id: str) -> str:
    """Name the folder with the signs of life of a run's tasks."""
    return join(workspace, RUNS, run_id or WITHOUT_MLFLOW)


def write_run_info(workspace: str, run_id: str, facts: Mapping[str, object]) -> None:
    """Note what a run is, at its start; a workspace that cannot be written is for others to say."""
    location = join(run_folder(workspace, run_id), RUN_FILE)
    told = {"run": run_id, "workspace": workspace, "started": _now(), **facts}
    try:
        storage_for(location).write_bytes(location, json.dumps(told, indent=1).encode())
    except AdvGrpoError as error:
        _logger.debug("no sign of life: %s", error)


@contextmanager
def heartbeat(task: str, workspace: str, run_id: str, *, role: str = "task") -> Iterator[None]:
    """Tell in the workspace that this process works on a task, how far it is, and how it ends.

    Args:
        task: Name of the task.
        workspace: Local path or `s3://` location.
        run_id: The MLflow run of the pipeline's run; empty for none.
        role: What this process is to the task; each role has a file of its own.
    """
    folder, before = join(run_folder(workspace, run_id), task), os.environ.get(_FOLDER)
    os.environ[_FOLDER] = folder
    try:
        with _HeartbeatWriter(folder, role).told():
            yield
    finally:
        # Only this one: a task leaves other variables that are to stay.
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before


@contextmanager
def rank_heartbeat() -> Iterator[None]:
    """Do so in the first of a task's ranks; the others tell nothing."""
    folder = os.environ.get(_FOLDER)
    if not folder or int(os.environ.get("RANK", "0")):
        yield
        return
    with _HeartbeatWriter(folder, "rank").told():
        yield


class _HeartbeatWriter(logging.Handler):
    """What a process does, gathered from its log and its progress, and written in a thread."""

    def __init__(self, folder: str, role: str) -> None:
        super().__init__(logging.INFO)
        self._location = join(folder, f"{role}.json")
        self._storage = storage_for(self._location)
        self._state = "running"
        self._facts: dict[str, Any] = {
            "role": role,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": _now(),
        }
        self._warnings: deque[dict[str, str]] = deque(maxlen=_WARNINGS_KEPT)
        self._changed, self._ended = threading.Event(), threading.Event()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell while the block runs, and how it ends."""
        level = _logger.level
        if not _logger.isEnabledFor(logging.INFO):
            _logger.setLevel(logging.INFO)
        _logger.addHandler(self)
        progress.listeners.append(self.hear)
        thread = threading.Thread(target=self._work, name="advgrpo-signs", daemon=True)
        thread.start()
        try:
            yield
            self._state = "finished"
        except BaseException as error:
            self._state = (
                "stopped" if isinstance(error, Preempted | KeyboardInterrupt) else "failed"
            )
            self._facts["failure"] = _told_of(error)
            raise
        finally:
            progress.listeners.remove(self.hear)
            _logger.removeHandler(self)
            _logger.setLevel(level)
            self._facts["ended"] = _now()
            self._ended.set()
            self._changed.set()
            thread.join(_END_SECONDS)

    def hear(self, event: Mapping[str, object]) -> None:
        """Take in how far the task is."""
        if "phase" in event:
            self._facts["progress"] = {**event, "at": _now()}
            self._changed.set()

    def emit(self, record: logging.LogRecord) -> None:
        """Take in what the log says of checkpoints, results, the job, and of what is wrong."""
        name, fields = event_of(record)
        match name:
            case "checkpoint_saved" | "resumed":
                self._facts["checkpoint"] = {**fields, "at": _now(), "event": name}
            case "result_saved" | "result_found":
                self._facts["result"] = fields["place"]
            case "job_state":
                self._facts["job"] = redact(record.getMessage())
            case _ if record.levelno >= logging.WARNING:
                text = redact(record.getMessage())[:_LONGEST_TEXT]
                self._warnings.append({"at": _now(), "event": name, "text": text})
            case _:
                return
        self._changed.set()

    def _work(self) -> None:
        while not self._ended.is_set():
            self._changed.clear()
            self._write()
            if not self._ended.wait(_LEAST_SECONDS):
                self._changed.wait(BEAT_SECONDS - _LEAST_SECONDS)
        self._write()

    def _write(self) -> None:
        facts = {
            **self._facts,
            "state": self._state,
            "beat": _now(),
            "warnings": list(self._warnings),
        }
        try:
            self._storage.write_bytes(self._location, json.dumps(facts, default=str).encode())
        except AdvGrpoError as error:
            # Whoever needs the store says so; the next beat tries again.
            _logger.debug("no sign of life: %s", error)


def _told_of(error: BaseException) -> dict[str, str]:
    if isinstance(error, AdvGrpoError):
        message, repair = error.message, error.repair
    else:
        message, repair = redact(str(error)), BUG_REPAIR if isinstance(error, Exception) else ""
    return {"kind": type(error).__name__, "message": message[:_LONGEST_TEXT], "repair": repair}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
