"""Start training processes on this machine and say how they ended."""

import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch.distributed.elastic.multiprocessing.api import (
    DefaultLogsSpecs,
    SignalException,
    Std,
)
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from advgrpo.errors import ConfigError, Preempted, RankFailedError
from advgrpo.tasks.environment import environment
from advgrpo.tasks.failures import FAILURE_FILE, read_failure

_STOP_SECONDS = 600
"""Longest time that ranks get to save their state once they are asked to stop."""

_LINES_QUOTED = 12
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

CPU_ENVIRONMENT = {
    # Without these DeepSpeed looks for a compiler and for CUDA.
    "DS_ACCELERATOR": "cpu",
    "DS_BUILD_OPS": "0",
    "DS_SKIP_CUDA_CHECK": "1",
    # More threads than one would make ranks wait for each other's.
    "OMP_NUM_THREADS": "1",
    # gloo would otherwise ask the network for the host's address.
    "GLOO_SOCKET_IFNAME": "lo",
}
"""Variables of ranks on a machine without a GPU."""


def run_ranks(module: str, arguments: Sequence[str], *, processes: int, logs: Path) -> None:
    """Run a module in several processes under torchrun's agent, and wait for their end.

    A first SIGTERM, SIGINT or SIGHUP is passed on to the ranks, which save their state and end.

    Args:
        module: What each rank runs, as `python -m` does.
        arguments: Its arguments.
        processes: How many ranks; on a machine with GPUs, one each.
        logs: Empty folder for the ranks' output, which also goes to ours.

    Raises:
        ConfigError: If there are fewer GPUs than ranks.
        Preempted: If the ranks were asked to stop; they have saved their state.
        AdvGrpoError: The error that a rank ended with, if it was one of ours.
        RankFailedError: If a rank died of anything else.
    """
    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        raise ConfigError(
            f"processes={processes}, but there are {gpus} GPUs", repair="use one process per GPU"
        )
    failure_file = logs / "failure.json"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), tee=Std.ALL),
        signals_to_handle="SIGTERM,SIGHUP",
        shutdown_timeout=_STOP_SECONDS,
    )
    variables = {FAILURE_FILE: str(failure_file), **({} if gpus else CPU_ENVIRONMENT)}
    try:
        with environment(variables), _interrupt_is_termination():
            elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except SignalException as stop:
        raise Preempted(
            f"training was asked to stop ({signal.Signals(stop.sigval).name}); its state is saved",
            repair="run it again to go on from there",
        ) from None
    except ChildFailedError as error:
        failure = read_failure(failure_file)
        if failure is not None and not _killed(error):
            raise failure.error() from None
        raise _rank_failed(error, logs) from None


def _killed(error: ChildFailedError) -> dict[int, ProcessFailure]:
    """Find the ranks that something other than torchrun's agent killed."""
    # When a rank fails, the agent ends the others by SIGTERM.
    return {
        rank: end
        for rank, end in error.failures.items()
        if end.exitcode < 0 and end.exitcode != -signal.SIGTERM
    }


def _rank_failed(error: ChildFailedError, logs: Path) -> Preempted | RankFailedError:
    # When a rank is killed, the others fail for want of it, perhaps in the same second.
    rank, end = next(iter(_killed(error).items()), error.get_first_failure())
    if end.exitcode in {Preempted.exit_code, -signal.SIGTERM}:
        return Preempted(
            f"training rank {rank} was asked to stop; its state is saved",
            repair="run it again to go on from there",
        )
    how = f"was killed by {end.signal_name()}" if end.exitcode < 0 else f"exited {end.exitcode}"
    memory = "; a machine that is out of memory kills so" if end.exitcode == -signal.SIGKILL else ""
    return RankFailedError(
        f"training rank {rank} (process {end.pid}) {how}{memory}. Its last lines:\n"
        + _last_lines(logs, rank),
        repair="run it again to go on from the last checkpoint",
    )


def _last_lines(logs: Path, rank: int) -> str:
    lines = [
        line
        for path in sorted(logs.glob(f"*/attempt_0/{rank}/std*.log"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    return "\n".join(f"    {line}" for line in lines[-_LINES_QUOTED:]) or "    (it wrote nothing)"


@contextmanager
def _interrupt_is_termination() -> Iterator[None]:
    # torchrun's agent replaces the handlers of SIGTERM and SIGHUP and leaves its own behind.
    before = {number: signal.getsignal(number) for number in _HANDLED}

    def terminate(_number: int, _frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
