import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from advgrpo import storage
from advgrpo.demo.server_process import Server
from advgrpo.demo.servers import PRELOAD, EmbeddedServers
from advgrpo.errors import StorageError, StorageUnavailableError
from advgrpo.tracking import task_run
from advgrpo.tracking.runs import open_parent_run

OWNER = """
import json, sys, time
from pathlib import Path
from advgrpo.demo.servers import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1])) as stores:
    print(json.dumps(stores.environment()), flush=True)
    time.sleep(600)
"""


def server(command: str, folder: Path, *, timeout_seconds: float = 20.0) -> Server:
    return Server(
        "test server",
        [sys.executable, "-c", command],
        folder=folder,
        log=folder / "server.log",
        environment=dict(os.environ),
        start_timeout_seconds=timeout_seconds,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def closed(url: str) -> bool:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0:
                return True
        time.sleep(0.1)
    return False


def gone(pid: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_the_log_of_a_server_that_exits_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such table") as caught:
        server("import sys; print('line one'); sys.exit('no such table')", tmp_path)
    assert "line one" in str(caught.value)
    assert "server.log" in caught.value.repair


def test_a_server_that_does_not_listen_in_time_is_stopped_and_quoted(tmp_path: Path) -> None:
    command = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with pytest.raises(StorageUnavailableError, match="did not start within 2 s"):
        server(command, tmp_path, timeout_seconds=2.0)
    assert gone(int((tmp_path / "server.log").read_text()))


def test_a_server_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    command = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), child.pid, 'http://127.0.0.1:4711', flush=True)\n"
        "time.sleep(600)\n"
    )
    running = server(command, tmp_path)
    assert running.port == 4711
    pids = [int(pid) for pid in (tmp_path / "server.log").read_text().split()[:2]]
    running.stop()
    running.stop()
    assert all(gone(pid) for pid in pids)


def test_an_earlier_log_is_kept_but_not_read_for_the_address(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("earlier http://127.0.0.1:1\n")
    command = "import time; print('http://127.0.0.1:2', flush=True); time.sleep(600)"
    running = server(command, tmp_path)
    running.stop()
    assert running.port == 2
    assert (tmp_path / "server.log").read_text().startswith("earlier")


def test_both_servers_listen_on_loopback_alone(stores: EmbeddedServers) -> None:
    ports = {int(url.rpartition(":")[2]) for url in (stores.tracking_uri, stores.s3_endpoint)}
    listening = [
        connection.laddr
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.port for address in listening} >= ports
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_no_secret_can_be_read_by_other_users(stores: EmbeddedServers) -> None:
    secret = stores.environment()["AWS_SECRET_ACCESS_KEY"]
    assert (stores.folder / "credentials.json").stat().st_mode & 0o077 == 0
    for process in psutil.Process().children(recursive=True):
        assert secret not in " ".join(process.cmdline())


def test_another_process_cannot_serve_the_same_folder(stores: EmbeddedServers) -> None:
    with (
        pytest.raises(StorageError, match="another process runs the servers of"),
        EmbeddedServers(stores.folder),
    ):
        pass


def test_loopback_is_reached_without_the_users_proxy(
    running_stores: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("no_proxy", "lan,intranet")
    environment = running_stores.environment()
    assert environment["NO_PROXY"] == environment["no_proxy"] == "intranet,lan,127.0.0.1,localhost"


def test_artifacts_of_mlflow_are_objects_in_the_bucket(stores: EmbeddedServers) -> None:
    client = MlflowClient(stores.tracking_uri)
    run_id = client.create_run("0").info.run_id
    client.log_text(run_id, "hello", "note.txt")
    location = f"s3://advgrpo/mlflow/0/{run_id}/artifacts/note.txt"
    assert storage.read_bytes(location) == b"hello"


@pytest.mark.slow
def test_a_restart_after_a_kill_resumes_and_duplicates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, records = tmp_path / "stores", tmp_path / "records"
    port = free_port()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.replace("[1])", f"[1]), mlflow_port={port}"), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    with owner, owner.stdout:
        environment = json.loads(owner.stdout.readline())
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        uri = environment["MLFLOW_TRACKING_URI"]
        storage.write_bytes("s3://advgrpo/kept", b"kept")
        parent = open_parent_run(
            "killed", "run", tracking_uri=uri, parameters={}, config_text="", tags={}
        )
        with ExitStack() as later:
            with task_run("train", folder=records, parent_run_id=parent, tracking_uri=uri) as run:
                run_id = run.run_id()
                for step in range(50):
                    run.metrics({"reward": float(step)}, step)
                owner.send_signal(signal.SIGKILL)
                owner.wait()
                assert closed(uri)
                assert closed(environment["AWS_ENDPOINT_URL_S3"])
                for step in range(50, 100):
                    run.metrics({"reward": float(step)}, step)
                again = later.enter_context(EmbeddedServers(folder, mlflow_port=port))
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", again.s3_endpoint)
            assert storage.read_bytes("s3://advgrpo/kept") == b"kept"
            history = MlflowClient(uri).get_metric_history(run_id, "reward")
    assert [(metric.step, metric.value) for metric in history] == [
        (step, float(step)) for step in range(100)
    ]


def test_mlflow_imports_the_modules_of_its_requests_before_it_listens(
    stores: EmbeddedServers,
) -> None:
    output = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "uvicorn", "--version"],
        env={**os.environ, "PYTHONPATH": PRELOAD},
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    assert "sitecustomize" in output
    assert {"mlflow.server.auth.db.models", "mlflow.store.model_registry.sqlalchemy_store"} <= set(
        re.findall(r"[\w.]+$", output, re.MULTILINE)
    )
    assert "Error in" not in output
    (server,) = [
        process
        for process in psutil.Process().children(recursive=True)
        if "uvicorn" in process.cmdline() and process.cwd() == str(stores.folder)
    ]
    assert PRELOAD in server.environ()["PYTHONPATH"].split(os.pathsep)


def test_a_killed_server_restarts_at_the_same_address(stores: EmbeddedServers) -> None:
    location = "s3://advgrpo/interrupted"
    storage.write_bytes(location, b"kept")
    with stores.interrupted("s3"):
        assert closed(stores.s3_endpoint)
    assert storage.read_bytes(location) == b"kept"
