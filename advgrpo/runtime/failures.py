"""Failures of tasks, recorded for the process that started them."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from advgrpo.cluster.settings import CLUSTER
from advgrpo.errors import AdvGrpoError, PipelineError, Preempted
from advgrpo.redaction import redact, redact_tracebacks, redacted_traceback
from advgrpo.runtime.exit_with_parent import end_with_parent
from advgrpo.strict_json import load_json_object
from advgrpo.telemetry.logging import (
    as_json,
    bind,
    ensure_format,
    log_error,
    log_fault,
    machine_event,
    replace_unencodable,
)
from advgrpo.telemetry.progress import publish

FAILURE_FILE = "ADVGRPO_FAILURE_FILE"
"""Environment variable that names the file to which the first failure is written."""

BUG_REPAIR = "this is a bug in advgrpo; report it with the traceback in the log"
"""Repair of an exception that is not an `AdvGrpoError`."""

_TERMINATION_LOG = Path("/dev/termination-log")
_MAX_MESSAGE_BYTES = 4096
"""Length that Kubernetes keeps of a termination message."""

# Tasks that this process is running: blocks of one task may be nested.
_running: list[str] = []

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """The exception that a task failed with."""

    task: str
    kind: str
    """Class name of the exception."""

    message: str
    repair: str

    @classmethod
    def of(cls, task: str, error: BaseException) -> "Failure":
        """Return the failure of a task that ends with an exception."""
        if isinstance(error, AdvGrpoError):
            return cls(task, type(error).__name__, error.message, error.repair)
        repair = BUG_REPAIR if isinstance(error, Exception) else ""
        # An exception of a library may quote a URL with its password.
        return cls(task, type(error).__name__, redact(str(error)), repair)

    def error(self) -> AdvGrpoError:
        """Return the exception, of its own class if that is an `AdvGrpoError`."""
        kind = _classes_by_name(AdvGrpoError).get(self.kind)
        if kind is None:
            return PipelineError(
                f"the task {self.task} failed: {self.kind}: {self.message}", repair=self.repair
            )
        return kind(self.message, repair=self.repair)


@contextmanager
def record_failures(task: str) -> Iterator[None]:
    """Publish start and end of a task, and record what it raises.

    Start and end go to the log and the progress file, the failure to the file that `FAILURE_FILE`
    names. From now on this process ends with the one that started it.

    Args:
        task: Name of the task.
    """
    end_with_parent()
    process = {"task": task, "process": os.getpid()}
    ensure_format()
    bind(task=task)
    # In a pipeline's pod kfp runs the task and leaves the exception to Python, which would print a
    # traceback with secrets.
    redact_tracebacks(_explain)
    publish({**process, "state": "started"})
    try:
        with _log_start_and_end(task):
            yield
        publish({**process, "state": "finished"})
    except Exception as error:
        record_failure(task, error)
        raise


def record_failure(task: str, error: Exception) -> None:
    """Write a task's failure, unless one was written before.

    Args:
        task: Name of the task.
        error: The error that ends it.
    """
    path = os.environ.get(FAILURE_FILE)
    if not path:
        return
    # Mode "x": the first failure is the cause, later ones are its consequences. On a full disk the
    # log still has it.
    with suppress(OSError), Path(path).open("x", encoding="utf-8") as file:
        file.write(json.dumps(asdict(Failure.of(task, error))))


def read_failure(path: Path) -> Failure | None:
    """Return the failure that a task wrote; None without one."""
    try:
        return Failure(**load_json_object(path.read_text(encoding="utf-8")))
    # A process that was killed while it wrote leaves a part of the JSON.
    except (FileNotFoundError, ValueError, TypeError):
        return None


def run_as_process(main: Callable[[], None]) -> NoReturn:
    """Run a program; an `AdvGrpoError` becomes a message and an exit status, not a traceback."""
    replace_unencodable()
    redact_tracebacks()
    try:
        main()
    except AdvGrpoError as error:
        log_error(error)
        sys.exit(error.exit_code)
    except Exception as error:
        # Python then prints the traceback, which the hook redacts.
        if not as_json():
            raise
        log_fault(error)
        sys.exit(1)
    sys.exit(0)


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report the exception that ends this process: its message and repair, then any traceback."""
    if not isinstance(error, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    failure = Failure.of("", error)
    message = failure.message if isinstance(error, AdvGrpoError) else f"{kind.__name__}: {error}"
    text = redact(f"{message}\n  repair: {failure.repair}" if failure.repair else message)
    _write_termination_message(text)
    if isinstance(error, AdvGrpoError):
        log_error(error)
    elif as_json():
        log_fault(error)
    else:
        sys.stderr.write(f"error: {text}\n{redacted_traceback(error)}")


def _write_termination_message(text: str) -> None:
    # Only in a task's pod. A job's pod has the variable without a value: its message is the end of
    # its log, in which the launcher finds the cause.
    if os.environ.get(CLUSTER) and _TERMINATION_LOG.exists():
        with suppress(OSError):
            _TERMINATION_LOG.write_bytes(text.encode()[:_MAX_MESSAGE_BYTES])


@contextmanager
def _log_start_and_end(task: str) -> Iterator[None]:
    """Log start and end of a task, once for nested blocks of the same task."""
    if task in _running:
        yield
        return
    _running.append(task)
    start = time.monotonic()
    logger.info("the task %s started", task, extra=machine_event("task_started"))
    outcome = "failed"
    fields: dict[str, object] = {}
    try:
        yield
        outcome = "finished"
    except BaseException as error:
        failure = Failure.of(task, error)
        fields = {"kind": failure.kind, "reason": failure.message, "repair": failure.repair}
        outcome = "stopped" if isinstance(error, Preempted) else outcome
        raise
    finally:
        _running.remove(task)
        fields["seconds"] = round(time.monotonic() - start, 3)
        extra = machine_event(f"task_{outcome}", **fields)
        logger.info("the task %s %s", task, outcome, extra=extra)


def _classes_by_name(root: type[AdvGrpoError]) -> dict[str, type[AdvGrpoError]]:
    classes = {root.__name__: root}
    for subclass in root.__subclasses__():
        classes |= _classes_by_name(subclass)
    return classes
