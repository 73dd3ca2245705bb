"""Launch of this machine's ranks under torchrun's agent."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import (
    DefaultLogsSpecs,
    SignalException,
    Std,
)
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from advgrpo.errors import ConfigError, Preempted, RankFailedError
from advgrpo.runtime.environment import environment
from advgrpo.runtime.exit_with_parent import lifeline
from advgrpo.runtime.failures import FAILURE_FILE, read_failure
from advgrpo.runtime.nodes import Nodes, nodes
from advgrpo.runtime.remote_call import WORKER, check_arguments, reference_to, write_arguments
from advgrpo.telemetry.logging import as_json, lines_to_text, log_error, rank_environment

_STOP_SECONDS = 600
"""Grace period of ranks that were signalled to stop, in which they save their state."""

_RENDEZVOUS_SECONDS = 3600
"""Timeout of the rendezvous: the other machines may still be downloading weights."""

_HANDLER_SECONDS = 2
"""Time in which torchrun's handler of a signal ends a launch that has no ranks yet."""

_LOG_LINES = 12
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

CPU_ENVIRONMENT = {
    # Without these DeepSpeed searches for a compiler and for CUDA when it is imported.
    "DS_ACCELERATOR": "cpu",
    "DS_BUILD_OPS": "0",
    "DS_SKIP_CUDA_CHECK": "1",
    # The ranks share the cores: with more threads each, they wait for each other.
    "OMP_NUM_THREADS": "1",
}
"""Variables of ranks on machines without a GPU."""

ONE_MACHINE_ENVIRONMENT = {
    # Otherwise gloo looks up the host name to choose an interface.
    "GLOO_SOCKET_IFNAME": "lo",
}
"""Variables of ranks that are all on one machine."""


def run_in_processes(
    function: Callable[..., None], arguments: Mapping[str, object], *, task: str, processes: int
) -> None:
    """Call a function in several processes, and wait for their end.

    Each process runs `advgrpo.runtime.worker`, which sets up logging, heartbeat and the record of
    failures, and ends with this process.

    Args:
        function: A module-level function with annotated parameters.
        arguments: Plain data, dataclasses and pydantic models by parameter.
        task: Name of the task in logs and errors.
        processes: How many ranks on all machines of the job; with GPUs, one each.

    Raises:
        ConfigError: If there are fewer GPUs than ranks.
        Preempted: If the ranks were stopped; they have saved their state.
        AdvGrpoError: The error that a rank ended with.
        RankFailedError: If a rank ended with another exception or was killed.
    """
    # A mistake raises here, with a traceback of the caller, and not in each of the ranks.
    check_arguments(function, arguments)
    with TemporaryDirectory() as scratch:
        write_arguments(scratch, arguments)
        launch_processes(
            WORKER,
            [task, reference_to(function), scratch],
            processes=processes,
            logs=Path(scratch, "logs"),
        )


def launch_processes(module: str, arguments: Sequence[str], *, processes: int, logs: Path) -> None:
    """Run a module in several processes under torchrun's agent, and wait for their end.

    SIGTERM, SIGINT and SIGHUP are forwarded to the ranks, which save their state and end.

    Args:
        module: Module that each rank runs, as `python -m` does.
        arguments: Command line of the module.
        processes: How many ranks on all machines of the job; with GPUs, one each.
        logs: Empty folder for the output of the ranks, which is printed as well.

    Raises:
        ConfigError: If there are fewer GPUs than ranks.
        Preempted: If the ranks were stopped; they have saved their state.
        AdvGrpoError: The error that a rank ended with.
        RankFailedError: If a rank ended with another exception or was killed.
    """
    machines, gpus = nodes(), torch.cuda.device_count()
    here = machines.processes_here(processes)
    if gpus and here > gpus:
        raise ConfigError(
            f"processes={processes}: {here} of them on this machine, which has {gpus} GPUs",
            repair="set processes to the number of GPUs",
        )
    logs.mkdir(parents=True, exist_ok=True)
    # One file for all ranks: only the first failure is written, see `record_failure`.
    failure_file = logs / "failure.json"
    if machines.count == 1:
        # torchrun's agent shares this store, by its port, for as long as both exist.
        store = dist.TCPStore(  # type: ignore[attr-defined]
            machines.address, 0, is_master=True, wait_for_workers=False, multi_tenant=True
        )
        machines = replace(machines, port=store.port)
    launch = elastic_launch(_launch_config(machines, here, logs), sys.executable)
    variables = {
        FAILURE_FILE: str(failure_file),
        **rank_environment(),
        **({} if gpus else CPU_ENVIRONMENT),
    }
    if machines.count == 1:
        variables |= ONE_MACHINE_ENVIRONMENT
    try:
        with (
            lifeline(logs) as of_ranks,
            environment(variables | of_ranks),
            _interrupt_as_termination(),
            _stoppable_rendezvous(logs),
        ):
            # Unbuffered: the log of a killed rank must hold its last lines.
            launch("-u", "-m", module, *arguments)
    except SignalException as stop:
        raise Preempted(
            f"training was stopped by {signal.Signals(stop.sigval).name}; its state is saved",
            repair="run it again to resume",
        ) from None
    except (RendezvousError, dist.DistError) as error:
        raise RankFailedError(
            f"rendezvous of the job's machines at {machines.address}:{machines.port} failed: "
            f"{error}",
            repair="find the first failure in the logs of all machines, then run it again",
        ) from error
    except ChildFailedError as error:
        failure = read_failure(failure_file)
        # Ranks fail when another one is killed; what they recorded then is not the cause.
        if failure is not None and not _killed_ranks(error):
            raise failure.error() from None
        raise _rank_failed(error, logs) from None


@contextmanager
def _stoppable_rendezvous(logs: Path) -> Iterator[None]:
    """End this process on a signal while it waits for the other machines.

    torch waits in C++, where Python calls no handler: a pod would stay for its whole grace period.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        with reader:
            while number := reader.recv(1):
                # Ranks have a folder for their output, and save their state first.
                if not ended.wait(_HANDLER_SECONDS) and not any(logs.glob("*/attempt_0")):
                    name = signal.Signals(number[0]).name
                    log_error(Preempted(f"stopped by {name} before the job's machines met"))
                    os._exit(Preempted.exit_code)

    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="advgrpo-rendezvous", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        writer.close()


def _launch_config(machines: Nodes, processes_here: int, logs: Path) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=machines.count,
        max_nodes=machines.count,
        nproc_per_node=processes_here,
        # The store of a static rendezvous is prefixed by this id: all machines must use the same.
        run_id="advgrpo",
        # A c10d rendezvous numbers the machines in its own order; static keeps the operator's
        # numbers, by which machine 0 records the results. A stopped c10d rendezvous also leaves a
        # thread behind.
        rdzv_backend="static",
        rdzv_endpoint=f"{machines.address}:{machines.port}",
        rdzv_configs={"rank": machines.rank, "timeout": _RENDEZVOUS_SECONDS},
        # Otherwise the agent looks up this machine's full name.
        local_addr="localhost" if machines.count == 1 else None,
        # A retry of the whole task resumes from its checkpoint; the agent restarts nothing.
        max_restarts=0,
        # A prefix would break the JSON, and torchrun replaces an empty template by its default.
        role="" if as_json() else "default_role",
        log_line_prefix_template="${role_name}" if as_json() else None,
        # The output goes to files as well, from which the last lines of a failed rank are quoted.
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), tee=Std.ALL),
        signals_to_handle="SIGTERM,SIGHUP",
        shutdown_timeout=_STOP_SECONDS,
    )


def _killed_ranks(error: ChildFailedError) -> dict[int, ProcessFailure]:
    """Return the ranks that were killed by something other than torchrun's agent."""
    # When a rank fails, the agent stops the others by SIGTERM.
    return {
        rank: end
        for rank, end in error.failures.items()
        if end.exitcode < 0 and end.exitcode != -signal.SIGTERM
    }


def _rank_failed(error: ChildFailedError, logs: Path) -> Preempted | RankFailedError:
    # When a rank is killed, collective calls of the others fail, perhaps in the same second.
    rank, end = next(iter(_killed_ranks(error).items()), error.get_first_failure())
    if end.exitcode in {Preempted.exit_code, -signal.SIGTERM}:
        return Preempted(
            f"training rank {rank} was stopped; its state is saved",
            repair="run it again to resume",
        )
    how = f"was killed by {end.signal_name()}" if end.exitcode < 0 else f"exited {end.exitcode}"
    memory = (
        ", perhaps because the machine ran out of memory" if end.exitcode == -signal.SIGKILL else ""
    )
    return RankFailedError(
        f"training rank {rank} (process {end.pid}) {how}{memory}. Its last lines:\n"
        + _last_lines(logs, rank),
        repair="run it again to resume from the last checkpoint",
    )


def _last_lines(logs: Path, rank: int) -> str:
    lines = [
        line
        for path in sorted(logs.glob(f"*/attempt_0/{rank}/std*.log"))
        for line in lines_to_text(path.read_text(encoding="utf-8", errors="replace")).splitlines()
        if line.strip()
    ]
    return "\n".join(f"    {line}" for line in lines[-_LOG_LINES:]) or "    (it wrote nothing)"


@contextmanager
def _interrupt_as_termination() -> Iterator[None]:
    # torchrun's agent replaces our handlers of SIGTERM and SIGHUP and never restores them. It does
    # not handle SIGINT, so Ctrl-C is turned into SIGTERM.
    before = {number: signal.getsignal(number) for number in _HANDLED}

    def terminate(_number: int, _frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
