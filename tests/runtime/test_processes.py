import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from advgrpo.errors import (
    ConfigError,
    Preempted,
    RankFailedError,
    RatioError,
    StorageUnavailableError,
)
from advgrpo.runtime.processes import launch_processes

WriteModule = Callable[[str], str]


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(code: str) -> str:
        (tmp_path / "rank_program.py").write_text(code, encoding="utf-8")
        return "rank_program"

    return write


def test_each_rank_gets_the_arguments_and_its_number(
    write_module: WriteModule, tmp_path: Path
) -> None:
    module = write_module(
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])\n"
    )
    launch_processes(module, [str(tmp_path)], processes=2, logs=tmp_path / "logs")
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text() == "2"


def test_our_environment_is_restored(write_module: WriteModule, tmp_path: Path) -> None:
    before = dict(os.environ), signal.getsignal(signal.SIGTERM)
    launch_processes(write_module(""), [], processes=1, logs=tmp_path / "logs")
    assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == before


def test_a_killed_rank_is_named_with_its_signal_and_last_lines(
    write_module: WriteModule, tmp_path: Path
) -> None:
    module = write_module(
        "import os, signal, time\n"
        "print('before the end of', os.environ['RANK'])\n"
        "if os.environ['RANK'] == '1':\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(RankFailedError, match=r"rank 1 .* was killed by SIGKILL") as caught:
        launch_processes(module, [], processes=2, logs=tmp_path / "logs")
    assert "before the end of 1" in str(caught.value)
    assert caught.value.exit_code == 151


def test_a_rank_that_raises_is_named_with_its_exit_status(
    write_module: WriteModule, tmp_path: Path
) -> None:
    with pytest.raises(RankFailedError, match=r"exited 1.*(.|\n)*no such thing"):
        launch_processes(
            write_module("raise KeyError('no such thing')"), [], processes=1, logs=tmp_path / "logs"
        )


def test_an_error_of_ours_is_raised_with_its_class(
    write_module: WriteModule, tmp_path: Path
) -> None:
    module = write_module(
        "from advgrpo.errors import RatioError\n"
        "from advgrpo.runtime.failures import record_failures, run_as_process\n"
        "def main():\n"
        "    with record_failures('train'):\n"
        "        raise RatioError('the ratio is 2', repair='make it 1')\n"
        "run_as_process(main)\n"
    )
    with pytest.raises(RatioError, match="the ratio is 2\n  repair: make it 1"):
        launch_processes(module, [], processes=2, logs=tmp_path / "logs")


def test_the_error_of_a_rank_takes_precedence_over_the_end_of_the_others(
    write_module: WriteModule, tmp_path: Path
) -> None:
    module = write_module(
        "import os, time\n"
        "from advgrpo.errors import StorageUnavailableError\n"
        "from advgrpo.runtime.failures import record_failures, run_as_process\n"
        "def main():\n"
        "    with record_failures('train'):\n"
        "        if os.environ['RANK'] == '1':\n"
        "            time.sleep(60)\n"
        "        raise StorageUnavailableError('the server does not respond')\n"
        "run_as_process(main)\n"
    )
    with pytest.raises(StorageUnavailableError, match="does not respond"):
        launch_processes(module, [], processes=2, logs=tmp_path / "logs")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ranks_that_are_stopped_may_save_first(
    number: signal.Signals, write_module: WriteModule, tmp_path: Path
) -> None:
    module = write_module(
        "import os, pathlib, signal, sys, time\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "def save(*_):\n"
        "    time.sleep(0.5)\n"
        "    (folder / ('saved' + os.environ['RANK'])).touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "(folder / ('ready' + os.environ['RANK'])).touch()\n"
        "time.sleep(60)\n"
    )

    def stop() -> None:
        while not all((tmp_path / f"ready{rank}").exists() for rank in range(2)):
            threading.Event().wait(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Preempted) as caught:
        launch_processes(module, [str(tmp_path)], processes=2, logs=tmp_path / "logs")
    thread.join()
    assert caught.value.exit_code == 143
    assert (tmp_path / "saved0").exists()
    assert (tmp_path / "saved1").exists()
    # torchrun's c10d rendezvous would leave its heartbeat, which fails when it is collected.
    assert not [one.name for one in threading.enumerate() if "Rendezvous" in one.name]


def test_ranks_that_exit_with_143_are_preempted(write_module: WriteModule, tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        launch_processes(
            write_module("raise SystemExit(143)"), [], processes=2, logs=tmp_path / "logs"
        )


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 of them on this machine, which has 1 GPUs"):
        launch_processes("unused", [], processes=2, logs=tmp_path / "logs")


def test_a_machine_that_waits_for_the_others_ends_on_a_signal(tmp_path: Path) -> None:
    program = (
        "import signal; from pathlib import Path; "
        "from advgrpo.runtime.failures import run_as_process; "
        "from advgrpo.runtime.processes import launch_processes; "
        # As a job's first process does.
        "signal.signal(signal.SIGTERM, signal.default_int_handler); run_as_process("
        f"lambda: launch_processes('x', [], processes=2, logs=Path({str(tmp_path / 'logs')!r})))"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    variables = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ
        | {f"PET_{k}": v for k, v in variables.items()}
        | {"PET_MASTER_PORT": f"{port}"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while True:
            # torch waits as soon as its store accepts connections.
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        try:
            _, written = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == Preempted.exit_code
    assert "error: stopped by SIGTERM before the job's machines met" in written
