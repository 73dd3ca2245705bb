"""Keep why a task failed, for whoever started it in another process."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from advgrpo.errors import AdvGrpoError, PipelineError, Preempted
from advgrpo.redaction import redact_tracebacks, redacted
from advgrpo.runtime.exit_with_parent import end_with_parent
from advgrpo.strict_json import parsed_object
from advgrpo.telemetry.logging import as_json, bind, ensure_format, log_error, log_fault, quiet
from advgrpo.telemetry.progress import tell

FAILURE_FILE = "ADVGRPO_FAILURE_FILE"
"""Environment variable that names the file to which the first failure is written."""

OUR_FAULT = "this is a fault of advgrpo; the log has the traceback"
"""In place of a repair, of an error that is none of `errors.py`."""

# Tasks that this process is at, in case one is noted within itself.
_running: list[str] = []

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a task failed."""

    task: str
    kind: str
    """Name of the exception's class."""

    message: str
    repair: str

    def error(self) -> AdvGrpoError:
        """Make the error anew, as the class it was raised as where that is one of ours."""
        kind = _kinds(AdvGrpoError).get(self.kind)
        if kind is None:
            return PipelineError(
                f"the task {self.task} failed: {self.kind}: {self.message}", repair=self.repair
            )
        return kind(self.message, repair=self.repair)


@contextmanager
def failures_noted(task: str) -> Iterator[None]:
    """Tell that a task starts and ends; of what it raises, keep why, and let it pass.

    A task does not outlive the process that started it.

    The start and end go to the progress file, why it failed to the file that `FAILURE_FILE` names.

    Args:
        task: What to call the task.
    """
    end_with_parent()
    who = {"task": task, "process": os.getpid()}
    ensure_format()
    bind(task=task)
    # In a pipeline's pod kfp runs the task, and leaves the traceback to Python.
    redact_tracebacks()
    tell({**who, "state": "started"})
    try:
        with _logged(task):
            yield
        tell({**who, "state": "finished"})
    except AdvGrpoError as error:
        note_failure(task, error)
        raise
    except Exception as error:
        _note(Failure(task, type(error).__name__, redacted(str(error)), OUR_FAULT))
        raise


def note_failure(task: str, error: AdvGrpoError) -> None:
    """Keep why a task fails, if nobody has before.

    Args:
        task: What to call the task.
        error: What it ends with.
    """
    _note(Failure(task, type(error).__name__, error.message, error.repair))


def read_failure(path: Path) -> Failure | None:
    """Read what a task wrote, or None if it wrote nothing."""
    try:
        return Failure(**parsed_object(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def run_as_process(main: Callable[[], None]) -> NoReturn:
    """Run a program; an error of ours becomes a message and an exit status, not a traceback."""
    redact_tracebacks()
    try:
        main()
    except AdvGrpoError as error:
        log_error(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if not as_json():
            raise
        log_fault(error)
        sys.exit(1)
    sys.exit(0)


@contextmanager
def _logged(task: str) -> Iterator[None]:
    """Log a task's start and end, once where it is noted within itself."""
    if task in _running:
        yield
        return
    _running.append(task)
    start = time.monotonic()
    logger.info("the task %s starts", task, extra=quiet("task_started"))
    name, facts = "task_failed", {}
    try:
        yield
        name = "task_finished"
    except BaseException as error:
        facts = _facts(error)
        name = "task_stopped" if isinstance(error, Preempted) else name
        raise
    finally:
        _running.remove(task)
        seconds = round(time.monotonic() - start, 3)
        words = name.replace("task_", "")
        logger.info("the task %s %s", task, words, extra=quiet(name, seconds=seconds, **facts))


def _facts(error: BaseException) -> dict[str, object]:
    if isinstance(error, AdvGrpoError):
        return {"kind": type(error).__name__, "reason": error.message, "repair": error.repair}
    return {"kind": type(error).__name__, "reason": str(error), "repair": ""}


def _note(failure: Failure) -> None:
    path = os.environ.get(FAILURE_FILE)
    if not path:
        return
    # Only the first failure is the cause; those after it are its consequences. On a full disk the
    # log still has it.
    with suppress(OSError), Path(path).open("x", encoding="utf-8") as file:
        file.write(json.dumps(asdict(failure)))


def _kinds(root: type[AdvGrpoError]) -> dict[str, type[AdvGrpoError]]:
    found = {root.__name__: root}
    for kind in root.__subclasses__():
        found |= _kinds(kind)
    return found
