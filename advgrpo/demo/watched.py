"""A pipeline in a process of its own: its progress on a display, its output in a log."""

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from advgrpo.demo.phases import Display, PhaseClock, ProgressReader
from advgrpo.errors import PipelineError, Preempted
from advgrpo.runtime.failures import FAILURE_FILE, read_failure
from advgrpo.telemetry.progress import PROGRESS_FILE

_POLL_SECONDS = 0.2


def run_watched(
    command: Sequence[str],
    name: str,
    *,
    variables: Mapping[str, str],
    state: Path,
    log_file: Path,
    display: Display,
    clock: PhaseClock,
) -> None:
    """Run a pipeline to its end.

    Args:
        command: The program and its arguments.
        name: What runs, for errors, as in "run the {name} again".
        variables: Environment of the process.
        state: Existing folder for the files by which it reports.
        log_file: File to which its output is appended.
        display: Shows the progress.
        clock: Measures the phases.

    Raises:
        Preempted: If this process received SIGTERM or Ctrl-C, which it forwards.
        AdvGrpoError: The error of a failed task.
        PipelineError: If the pipeline failed in another way.
    """
    progress_file, failure_file = state / "progress.jsonl", state / "failure.json"
    # Files of an earlier attempt would be read as this one's.
    for stale in (progress_file, failure_file):
        stale.unlink(missing_ok=True)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    reader = ProgressReader(
        progress_file,
        on_start=display.start,
        on_step=display.step,
        on_finish=lambda task: display.finish(task, clock.finish(task)),
    )
    files = {PROGRESS_FILE: str(progress_file), FAILURE_FILE: str(failure_file)}
    with closing(reader), log_file.open("ab") as log:
        # In its own session, so that Ctrl-C reaches this process alone and tasks save their state.
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**variables, **files}, start_new_session=True
        )
        with _forwarded_signals(process) as stop:
            while process.poll() is None:
                reader.read()
                time.sleep(_POLL_SECONDS)
            # Events that were written between the last read and the exit.
            reader.read()
    # First: a stop that arrived too late has not interrupted anything.
    if process.returncode == 0:
        return
    # Before the failure file: tasks that were stopped may have recorded a failure.
    if stop.requested:
        raise Preempted(
            f"the {name} was stopped; its state is saved", repair="run it again to resume"
        )
    failure = read_failure(failure_file)
    if failure is not None:
        raise failure.error()
    raise PipelineError(
        f"the pipeline ended with exit status {process.returncode}",
        repair=f"read the end of {log_file}, fix the cause, and run the {name} again",
    )


class _Stop:
    """Whether a stop was requested."""

    requested = False


@contextmanager
def _forwarded_signals(process: subprocess.Popen[bytes]) -> Iterator[_Stop]:
    """Forward SIGTERM and SIGINT to the pipeline, so that its tasks can save their state."""
    stop = _Stop()

    def forward(_number: int, _frame: FrameType | None) -> None:
        stop.requested = True
        # SIGTERM for Ctrl-C too: it is the signal on which tasks save their state.
        process.terminate()

    before = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        # From here on Ctrl-C interrupts this process again, for instance while the servers stop.
        for number, handler in before.items():
            signal.signal(number, handler)
