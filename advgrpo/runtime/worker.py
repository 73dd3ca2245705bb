"""Entry point of the processes that tasks start: ranks under torchrun, and pods of a job.

The command line names the task, the function to call as `module:name`, and the folder of its
arguments.
"""

import argparse
import os
import signal

from advgrpo.errors import Preempted
from advgrpo.runtime.dispatch import run_in_pod
from advgrpo.runtime.environment import quiet_libraries
from advgrpo.runtime.failures import record_failures, run_as_process
from advgrpo.runtime.heartbeat import rank_heartbeat
from advgrpo.runtime.nodes import remove_rank_variables
from advgrpo.runtime.remote_call import call, load_function, read_arguments
from advgrpo.telemetry.logging import configure, configure_rank
from advgrpo.telemetry.progress import PROGRESS_FILE


def main() -> None:
    """Call the function that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pod", action="store_true", help="run as a job's pod, not as a rank")
    parser.add_argument("task", help="name of the task")
    parser.add_argument("function", help="module:name of the function")
    parser.add_argument("folder", help="path or s3:// location of its arguments")
    arguments = parser.parse_args()
    run = _run_pod if arguments.pod else _run_rank
    run(arguments.task, arguments.function, arguments.folder)


def _run_rank(task: str, function: str, folder: str) -> None:
    configure_rank()
    # The front end shows the progress of one process.
    if int(os.environ.get("RANK", "0")):
        os.environ.pop(PROGRESS_FILE, None)
    with record_failures(task), rank_heartbeat():
        call(load_function(function), read_arguments(folder))


def _run_pod(task: str, function: str, folder: str) -> None:
    configure()
    # The ranks inherit the variables.
    quiet_libraries()
    remove_rank_variables()
    # As process 1 of its container, Python ignores a SIGTERM that has no handler: stopped before
    # its ranks run, the pod would start them. While they run, torchrun handles it. Code that
    # retries on any Exception does not catch a KeyboardInterrupt.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_in_pod(task, function, folder)
    except KeyboardInterrupt:
        raise Preempted(
            f"the task {task} was stopped", repair="run it again to resume from its saved state"
        ) from None


if __name__ == "__main__":
    run_as_process(main)
