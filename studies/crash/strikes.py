"""Faults that are injected into a job."""

import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import psutil

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import Preempted
from advgrpo.storage import COMMIT_FILE, list_files, read_bytes, write_bytes
from studies.crash.disk import Disk
from studies.crash.job import WORKSPACE, Attempt, Job

PATIENCE_SECONDS = 300.0
"""Timeout of a job after a fault."""

_ORPHANS_SECONDS = 20.0


@dataclass(frozen=True)
class Scene:
    """A running job and its environment."""

    job: Job
    attempt: Attempt
    stores: EmbeddedServers
    disk: Disk
    chance: random.Random


Strike = Callable[[Scene], str]
"""Injects a fault, waits for the job's end, and returns an error or an empty text."""


def kill_all(scene: Scene) -> str:
    """Kill every process, as a power cut does."""
    scene.attempt.kill()
    return ""


def lose_machine(scene: Scene) -> str:
    """Kill every process and lose the disk, as a preempted node does."""
    scene.attempt.kill()
    scene.job.forget_machine()
    return ""


def terminate(scene: Scene) -> str:
    """Send SIGTERM: the job saves its state and exits accordingly, or had finished."""
    scene.attempt.process.send_signal(signal.SIGTERM)
    status = scene.attempt.wait(PATIENCE_SECONDS)
    if status not in {0, Preempted.exit_code, -signal.SIGTERM}:
        return f"SIGTERM led to exit status {status}"
    return _orphans(scene)


def kill_rank(scene: Scene) -> str:
    """Kill one of the ranks."""
    if process_group := scene.attempt.process_group():
        scene.chance.choice(process_group).kill()
    scene.attempt.wait(PATIENCE_SECONDS)
    return _orphans(scene)


def kill_launcher(scene: Scene) -> str:
    """Kill the process of the command alone; the others must not outlive it."""
    scene.attempt.process.kill()
    scene.attempt.process.wait()
    return _orphans(scene)


def kill_s3(scene: Scene) -> str:
    """Kill the S3 server and start it again a little later."""
    return _without(scene, "s3")


def kill_mlflow(scene: Scene) -> str:
    """Kill the MLflow server and start it again a little later."""
    return _without(scene, "mlflow")


def fill_disk(scene: Scene) -> str:
    """Fill the machine's disk for ten seconds or until the job has ended."""
    with scene.disk.full(scene.attempt):
        deadline = time.monotonic() + 10
        while scene.attempt.running and time.monotonic() < deadline:
            time.sleep(0.05)
    scene.attempt.wait(PATIENCE_SECONDS)
    return _orphans(scene)


def tear(scene: Scene) -> str:
    """Kill every process, and damage a file of the newest checkpoint, if there are two."""
    scene.attempt.kill()
    everything = list_files(WORKSPACE)
    if any(name.startswith("training/") and "/result/" in name for name in everything):
        # Training has finished: its checkpoints are never read again.
        return ""
    whole = [n.removesuffix(COMMIT_FILE) for n in everything if n.endswith(f"/{COMMIT_FILE}")]
    checkpoints = sorted(folder for folder in whole if "/checkpoints/" in folder)
    if len(checkpoints) < 2:
        return ""
    files = [name for name in everything if name.startswith(checkpoints[-1])]
    location = f"{WORKSPACE}/{scene.chance.choice(files)}"
    data = read_bytes(location)
    place = scene.chance.randrange(len(data))
    if scene.chance.random() < 0.5:
        write_bytes(location, data[:place])
    else:
        write_bytes(location, data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
    return ""


TORN = "torn checkpoint"

STRIKES: Mapping[str, Strike] = {
    "SIGKILL of all": kill_all,
    "machine lost": lose_machine,
    "SIGTERM": terminate,
    "one rank": kill_rank,
    "launcher": kill_launcher,
    "S3 server": kill_s3,
    "MLflow server": kill_mlflow,
    "disk full": fill_disk,
    TORN: tear,
}


def _without(scene: Scene, server: Literal["s3", "mlflow"]) -> str:
    with scene.stores.interrupted(server):
        time.sleep(scene.chance.uniform(0.1, 3.0))
    scene.attempt.wait(PATIENCE_SECONDS)
    return _orphans(scene)


def _orphans(scene: Scene) -> str:
    """Wait until no process of the job is left; return an error if one remains."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while left := scene.attempt.processes():
        if time.monotonic() > deadline:
            names = ", ".join(_name(process) for process in left)
            scene.attempt.kill()
            return f"processes outlived the command: {names}"
        time.sleep(0.02)
    return ""


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[-6:])[:100]
    except psutil.Error:
        return str(process.pid)
