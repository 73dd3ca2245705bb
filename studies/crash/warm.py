"""Server that forks Python processes with all libraries loaded, in milliseconds.

Torch, DeepSpeed and MLflow take eight seconds to load, and the job has a dozen processes. The
server forks one for each request of `client`. A fork runs the product's own code with the original
command line; only the start of the interpreter differs.
"""

import atexit
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from studies.crash.points import arm

LOADED = (
    "boto3.s3.inject",
    "boto3.s3.transfer",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "diffusers.guiders",
    "diffusers.pipelines.onnx_utils",
    "docker",
    "kfp.dsl.executor",
    "kfp.local",
    "matplotlib.figure",
    "mlflow.cli",
    "mlflow.server.handlers",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.system_metrics.metrics.gpu_monitor",
    "mlflow.tracking.request_header.registry",
    "peft",
    "psutil",
    "torch.distributed.launcher.api",
    "advgrpo.cli.main",
    "advgrpo.cli.pipeline",
    "advgrpo.kfp_client.local",
    "advgrpo.models.policies.sd3",
    "advgrpo.models.scorers.pickscore",
    "advgrpo.pocket.judge",
    "advgrpo.pocket.source",
    "advgrpo.storage.s3",
    "advgrpo.tasks.evaluate",
    "advgrpo.runtime.worker",
    "advgrpo.tasks.pretrain_reward",
    "advgrpo.tasks.reference_images",
    "advgrpo.tasks.register",
    "advgrpo.tasks.resolve_config",
    "advgrpo.tasks.train",
    "advgrpo.registry.registration",
    "advgrpo.tracking.runs",
    "advgrpo.tracking.background_uploader",
    "advgrpo.tracking.uploader",
    "advgrpo.training.build",
    "advgrpo.training.engines.zero",
    "advgrpo.training.loop",
    "advgrpo.training.pretraining",
)
"""Modules that are loaded before the first fork."""

_PR_SET_PDEATHSIG = 1
_NOT_FLUSHED = 120
"""Exit status of a Python that cannot flush its output."""

_DESCRIPTORS = 3


def main(address: str, program: str) -> None:
    """Serve forks until standard input ends.

    Args:
        address: Path of the socket for requests.
        program: Program that forks start as Python.
    """
    sys.executable = program
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    request = _Server(address).run()
    if request is not None:
        _end(_become(request))


@dataclass(frozen=True)
class _Fork:
    process: int
    client: socket.socket


@dataclass(frozen=True)
class _Request:
    """Request of a client."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    files: Sequence[int]
    """Standard input, output and error."""


class _Server:
    """Server of fork requests.

    Args:
        address: Path of its socket.
    """

    def __init__(self, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        for source in (self._listener, self._woken, 0):
            self._selector.register(source, selectors.EVENT_READ)
        self._forks: dict[int, _Fork] = {}

    def run(self) -> _Request | None:
        """Serve; return the request in a fork, and None in the server at its end."""
        sys.stdout.write("warm\n")
        sys.stdout.flush()
        while True:
            for key, _ in self._selector.select():
                if key.fd == 0:
                    return None
                if key.fd == self._woken:
                    self._reap()
                elif key.fileobj is self._listener:
                    if (request := self._accept()) is not None:
                        return request
                elif key.data in self._forks:
                    self._forward(self._forks[key.data])

    def _accept(self) -> _Request | None:
        """Fork for a request; return it in the fork, None in the server."""
        client, _ = self._listener.accept()
        request = _read_request(client)
        if request is None:
            client.close()
            return None
        process = os.fork()
        if process == 0:
            self._leave(client)
            return request
        for file in request.files:
            os.close(file)
        self._forks[process] = _Fork(process, client)
        self._selector.register(client, selectors.EVENT_READ, process)
        return None

    def _leave(self, client: socket.socket) -> None:
        """Close the server's descriptors in a fork."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for mine in (self._listener, client, *(fork.client for fork in self._forks.values())):
            mine.close()
        os.close(self._woken)
        os.close(self._wake)

    def _forward(self, fork: _Fork) -> None:
        """Forward the signals of a client; kill the fork of a client that was killed."""
        try:
            signals = fork.client.recv(64)
        except ConnectionError:
            signals = b""
        for number in signals or [signal.SIGKILL]:
            os.kill(fork.process, number)
        if not signals:
            self._selector.unregister(fork.client)

    def _reap(self) -> None:
        """Send the clients of ended forks the exit status."""
        os.read(self._woken, 4096)
        while self._forks:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            client = self._forks.pop(process).client
            with suppress(KeyError):
                self._selector.unregister(client)
            with suppress(ConnectionError):
                client.sendall(struct.pack("!i", os.waitstatus_to_exitcode(status)))
            client.close()


def _read_request(client: socket.socket) -> _Request | None:
    """Return the request of a client; None if it was killed in the meantime."""
    files: list[int] = []
    try:
        head, files, _, _ = socket.recv_fds(client, 4, _DESCRIPTORS)
        size = int.from_bytes(head, "big")
        payload = b""
        while len(payload) < size and (part := client.recv(size - len(payload))):
            payload += part
        return _Request(**json.loads(payload), files=files)
    except (ConnectionError, ValueError):
        for file in files:
            os.close(file)
        return None


def _become(request: _Request) -> int:
    """Run the requested command line in this fork, and return its exit status."""
    # Not `exit_with_parent`: a fork inherits the descriptor, and with it the lock.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    for target, file in enumerate(request.files):
        os.dup2(file, target)
        os.close(file)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    tempfile.tempdir = None
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # The rig sends SIGUSR1 to a job that hangs.
    faulthandler.register(signal.SIGUSR1)
    arm()
    arguments = list(request.arguments)
    while arguments and arguments[0] in {"-u", "-I", "-E", "-s"}:
        arguments.pop(0)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return _status_of(arguments)


def _status_of(arguments: Sequence[str]) -> int:
    """Run a command line, print its exception as the interpreter does, and return its status."""
    # Always return, on a full disk as well: a fork that exits as the interpreter does would wait
    # for ever for threads of libraries, which exist in the server alone.

    try:
        _run(arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            with suppress(OSError):
                sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        with suppress(OSError):
            traceback.print_exc()
        return 1
    return 0


def _run(arguments: Sequence[str]) -> None:
    match arguments:
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            sys.path[0] = str(Path.cwd())
            # Loaded again, it would warn; a package runs its module `__main__` instead.
            if not hasattr(sys.modules.get(module), "__path__"):
                sys.modules.pop(module, None)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            sys.path[0] = ""
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        case [script, *rest]:
            sys.argv = [script, *rest]
            sys.path[0] = str(Path(script).parent)
            runpy.run_path(script, run_name="__main__")


def _end(status: int) -> NoReturn:
    """Exit as the interpreter does, but without freeing its memory, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = status or _NOT_FLUSHED
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
