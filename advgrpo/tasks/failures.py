"""Keep why a task failed, for whoever started it in another process."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from advgrpo.errors import AdvGrpoError, PipelineError
from advgrpo.progress import tell
from advgrpo.tasks.lifeline import end_with_parent

FAILURE_FILE = "ADVGRPO_FAILURE_FILE"
"""Environment variable that names the file to which the first failure is written."""


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
    tell({**who, "state": "started"})
    try:
        yield
        tell({**who, "state": "finished"})
    except AdvGrpoError as error:
        _note(Failure(task, type(error).__name__, error.message, error.repair))
        raise
    except Exception as error:
        repair = "this is a fault of advgrpo; the log has the traceback"
        _note(Failure(task, type(error).__name__, str(error), repair))
        raise


def read_failure(path: Path) -> Failure | None:
    """Read what a task wrote, or None if it wrote nothing."""
    try:
        return Failure(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def run_as_process(main: Callable[[], None]) -> NoReturn:
    """Run a program; an error of ours becomes a message and an exit status, not a traceback."""
    try:
        main()
    except AdvGrpoError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.exit(0)


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
