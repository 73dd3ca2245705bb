"""What each pod of a job runs: `python -m advgrpo.runtime.worker TASK FOLDER`."""

import argparse
import signal

from advgrpo.errors import Preempted
from advgrpo.runtime.dispatch import run_in_pod
from advgrpo.runtime.environment import quiet_libraries
from advgrpo.runtime.failures import run_as_process
from advgrpo.runtime.nodes import forget_ranks
from advgrpo.telemetry.logging import configure


def main() -> None:
    """Run a task on this machine's share of the job's processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", help="which one")
    parser.add_argument("folder", help="s3:// location of its arguments")
    arguments = parser.parse_args()
    configure()
    quiet_libraries()
    forget_ranks()
    # The first process of a container does not end by a signal that it does not handle: asked to
    # stop before its training processes run, it would start them. They handle it while they run.
    # A KeyboardInterrupt passes what takes any Exception for a fault of the network.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run_in_pod(arguments.task, arguments.folder)
    except KeyboardInterrupt:
        raise Preempted(
            f"the task {arguments.task} was asked to stop",
            repair="run it again to go on from what is saved",
        ) from None


if __name__ == "__main__":
    run_as_process(main)
