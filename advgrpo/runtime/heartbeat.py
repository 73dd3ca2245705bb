"""Heartbeats: the state of each task's processes, in small files of the workspace.

A process writes its file every now and then and at its end, in a thread, so that a slow or
unavailable store delays nothing. `advgrpo status` reads the files (`run_status_collection`).

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
from advgrpo.runtime.failures import Failure
from advgrpo.storage.files import storage_for
from advgrpo.storage.locations import join
from advgrpo.telemetry import progress
from advgrpo.telemetry.logging import event_of
from advgrpo.telemetry.trainer_status import report_trainer_status

RUNS = "runs"
"""Folder of a workspace with the heartbeats of its runs."""

WITHOUT_MLFLOW = "without-mlflow"
"""Folder name of a run without an MLflow run."""

RUN_FILE = "run.json"
HEARTBEAT_SECONDS = 30.0
"""Longest time between two writes of a running process."""

_FOLDER = "ADVGRPO_HEARTBEAT_DIR"
"""Environment variable that names the folder of the task's heartbeats to its ranks."""

_MIN_SECONDS_BETWEEN = 5.0
_END_SECONDS = 10.0
_MAX_WARNINGS = 10
_MAX_TEXT = 2000

_logger = logging.getLogger("advgrpo")


def run_folder(workspace: str, run_id: str) -> str:
    """Return the folder with the heartbeats of a run."""
    return join(workspace, RUNS, run_id or WITHOUT_MLFLOW)


def write_run_info(workspace: str, run_id: str, facts: Mapping[str, object]) -> None:
    """Write what identifies a run, at its start.

    A store that cannot be written is not an error here: the first task that needs it reports it.
    """
    location = join(run_folder(workspace, run_id), RUN_FILE)
    info = {"run": run_id, "workspace": workspace, "started": _now(), **facts}
    try:
        storage_for(location).write_bytes(location, json.dumps(info, indent=1).encode())
    except AdvGrpoError as error:
        _logger.debug("cannot write %s: %s", location, error)


@contextmanager
def heartbeat(task: str, workspace: str, run_id: str, *, role: str = "task") -> Iterator[None]:
    """Write the heartbeat of a process while the block runs, and how it ends.

    Args:
        task: Name of the task.
        workspace: Local path or `s3://` location.
        run_id: MLflow run of the pipeline's run; empty for none.
        role: Role of this process in the task; each role has a file of its own.
    """
    folder, before = join(run_folder(workspace, run_id), task), os.environ.get(_FOLDER)
    os.environ[_FOLDER] = folder
    try:
        with _HeartbeatWriter(folder, role).running():
            yield
    finally:
        # Not `environment()`, which would undo other variables that the task has set.
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before


@contextmanager
def rank_heartbeat() -> Iterator[None]:
    """Write the heartbeat of a task's first rank; on other ranks, do nothing."""
    folder = os.environ.get(_FOLDER)
    # Ranks inherit the folder from the process that launched them; on machines other than the first
    # it is not set.
    if not folder or int(os.environ.get("RANK", "0")):
        yield
        return
    with _HeartbeatWriter(folder, "rank").running():
        yield


class _HeartbeatWriter(logging.Handler):
    """Collects the state of a process from its log and progress, and writes it in a thread."""

    def __init__(self, folder: str, role: str) -> None:
        super().__init__(logging.INFO)
        self._location = join(folder, f"{role}.json")
        self._storage = storage_for(self._location)
        self._state = "running"
        self._facts: dict[str, Any] = {
            "role": role,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _now(),
        }
        self._reported: Mapping[str, object] | None = None
        self._warnings: deque[dict[str, str]] = deque(maxlen=_MAX_WARNINGS)
        self._changed, self._ended = threading.Event(), threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write heartbeats while the block runs, and how it ends."""
        level = _logger.level
        # Checkpoints and results are logged at INFO, which a process without our logging drops.
        if not _logger.isEnabledFor(logging.INFO):
            _logger.setLevel(logging.INFO)
        _logger.addHandler(self)
        progress.listeners.append(self.on_progress)
        thread = threading.Thread(target=self._work, name="advgrpo-heartbeat", daemon=True)
        thread.start()
        try:
            yield
            self._state = "finished"
        except BaseException as error:
            stopped = isinstance(error, Preempted | KeyboardInterrupt)
            self._state = "stopped" if stopped else "failed"
            failure = Failure.of("", error)
            self._facts["failure"] = {
                "kind": failure.kind,
                "message": failure.message[:_MAX_TEXT],
                "repair": failure.repair,
            }
            raise
        finally:
            progress.listeners.remove(self.on_progress)
            _logger.removeHandler(self)
            _logger.setLevel(level)
            self._facts["ended"] = _now()
            self._ended.set()
            self._changed.set()
            # With a timeout: the store may not respond, and the thread is a daemon.
            thread.join(_END_SECONDS)

    def on_progress(self, event: Mapping[str, object]) -> None:
        """Record the progress of the task."""
        if "phase" in event:
            self._facts["progress"] = {**event, "at": _now()}
            self._changed.set()

    def emit(self, record: logging.LogRecord) -> None:
        """Record checkpoints, results, the state of the job, and warnings."""
        name, fields = event_of(record)
        match name:
            # Read from the log, so that training code needs no reference to the heartbeat.
            case "checkpoint_saved" | "resumed":
                self._facts["checkpoint"] = {**fields, "at": _now(), "event": name}
            case "result_saved" | "result_found":
                self._facts["result"] = fields["place"]
            case "job_state":
                self._facts["job"] = redact(record.getMessage())
            case _ if record.levelno >= logging.WARNING:
                text = redact(record.getMessage())[:_MAX_TEXT]
                self._warnings.append({"at": _now(), "event": name, "text": text})
            case _:
                return
        self._changed.set()

    def _work(self) -> None:
        while not self._ended.is_set():
            # Cleared before the write, so that a change during it causes another one.
            self._changed.clear()
            self._write()
            self._report()
            # Progress may change many times a second: a pause first, then a wait for the next
            # change.
            if not self._ended.wait(_MIN_SECONDS_BETWEEN):
                self._changed.wait(HEARTBEAT_SECONDS - _MIN_SECONDS_BETWEEN)
        self._write()
        self._report()

    def _report(self) -> None:
        """Report new progress to the controller of this process's job."""
        found = self._facts.get("progress")
        if found is not None and found is not self._reported:
            report_trainer_status(found)
            self._reported = found

    def _write(self) -> None:
        facts = {
            # A copy: the task's threads add facts while these are encoded.
            **self._facts,
            "state": self._state,
            "heartbeat_at": _now(),
            "warnings": list(self._warnings),
        }
        try:
            self._storage.write_bytes(self._location, json.dumps(facts, default=str).encode())
        except AdvGrpoError as error:
            # At debug level: a warning would be recorded in the heartbeat and written again.
            _logger.debug("cannot write %s: %s", self._location, error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
