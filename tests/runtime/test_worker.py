"""A job's command, run for real as the training operator's pods would run it, on one machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from advgrpo.config import resolve
from advgrpo.config.tasks import PretrainingSettings, ReferenceImagesSettings, TrainingSettings
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import Preempted
from advgrpo.runtime.dispatch import FAILURE_PREFIX, OUTCOME_FILE, run_in_pod
from advgrpo.runtime.pipeline_tasks import (
    EVALUATE,
    PRETRAIN_REWARD,
    REFERENCE_IMAGES,
    TRAIN,
    JobTask,
)
from advgrpo.runtime.remote_call import WORKER, write_arguments
from advgrpo.storage import join, list_files, read_bytes
from advgrpo.storage.fetch import local_folder
from advgrpo.tasks.evaluate import evaluate
from advgrpo.tasks.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "advgrpo" / "pocket" / "prompts"
SMALL = (
    "training.updates=4",
    "training.checkpoint_every_updates=1",
    "training.sampling.num_inference_steps=3",
    "training.algorithm.window.last_start=0",
    "training.rollout.prompts_per_update=2",
    "training.rollout.group_size=4",
    "training.rollout.microbatch_size=4",
    "training.update_schedule.discriminator_steps=1",
    "training.monitoring.held_out_prompts=4",
    "discriminator.optimizer.batch_size=8",
    "discriminator.optimizer.replay_images=16",
    "discriminator.held_out_fraction=0.3",
    "discriminator.pretraining.images=16",
    "discriminator.pretraining.held_out_images=16",
    "discriminator.pretraining.steps=1",
    "reference_images.images_per_prompt=1",
    "reference_images.test_images_per_prompt=1",
)


class Pods:
    """Two pods of a PyTorchJob: processes with the variables that the operator sets."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(
        self, task: JobTask[Any], job: str, *, count: int = 2
    ) -> list[subprocess.Popen[bytes]]:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = str(probe.getsockname()[1])
        pods = []
        for rank in range(count):
            operator = {
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
                "WORLD_SIZE": "2",
                "RANK": str(rank),
                "PET_NNODES": str(count),
                "PET_NPROC_PER_NODE": str(2 // count),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "localhost",
                "PET_MASTER_PORT": port,
            }
            # Machines share no disk.
            own = {"ADVGRPO_CACHE": str(self._folder / f"disk-{rank}"), "GLOO_SOCKET_IFNAME": "lo"}
            log = (self._folder / f"{task.name}-{rank}.log").open("ab")
            pods.append(
                subprocess.Popen(
                    (sys.executable, "-m", WORKER, "--pod", task.name, task.function, job),
                    cwd=ROOT,
                    env={**os.environ, **operator, **own},
                    stdout=log,
                    stderr=log,
                )
            )
            log.close()
        self.started += pods
        return pods

    def log(self, task: str) -> str:
        return "\n".join(p.read_text("utf-8") for p in sorted(self._folder.glob(f"{task}-*.log")))


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    pods = Pods(tmp_path)
    yield pods
    for pod in pods.started:
        kill(pod)


def kill(pod: subprocess.Popen[bytes]) -> None:
    """End all processes of a pod at once, as the loss of its node does."""
    if pod.poll() is not None:
        return
    of_pod = psutil.Process(pod.pid)
    for process in (of_pod, *of_pod.children(recursive=True)):
        process.kill()
    pod.wait()


def write_few_prompts(source: Path, target: Path, step: int) -> Path:
    lines = source.read_text("utf-8").splitlines()[: 16 * step : step]
    target.write_text("\n".join(lines), "utf-8")
    return target


def write_job(workspace: str, name: str, arguments: dict[str, Any]) -> str:
    job = join(workspace, "jobs", name)
    write_arguments(job, arguments)
    return job


def outcome(job: str) -> Any:  # noqa: ANN401 - JSON
    return json.loads(read_bytes(join(job, OUTCOME_FILE)))


def exit_statuses(running: list[subprocess.Popen[bytes]]) -> list[int]:
    return [pod.wait(timeout=300) for pod in running]


@pytest.mark.usefixtures("warm_python")
def test_machines_without_a_shared_disk_equal_a_single_one_also_when_one_is_lost(
    stores: EmbeddedServers,  # noqa: ARG001 - must run
    pods: Pods,
    tmp_path: Path,
) -> None:
    workspace = f"s3://advgrpo/worker/{tmp_path.name}"
    train_prompts = write_few_prompts(PROMPTS / "train.txt", tmp_path / "train.txt", 10)
    test_prompts = write_few_prompts(PROMPTS / "test.txt", tmp_path / "test.txt", 3)
    config = resolve(
        "pocket", [*SMALL, f"prompts.train={train_prompts}", f"prompts.test={test_prompts}"]
    )

    job = write_job(
        workspace,
        "reference-images",
        {
            "settings": ReferenceImagesSettings.of(config).model_dump_json(),
            "workspace": workspace,
            "processes": 2,
        },
    )
    assert exit_statuses(pods.start(REFERENCE_IMAGES, job)) == [0, 0], pods.log("reference-images")
    images, test_images = outcome(job)

    job = write_job(
        workspace,
        "pretrain-reward",
        {
            "settings": PretrainingSettings.of(config).model_dump_json(),
            "reference_images": images,
            "workspace": workspace,
        },
    )
    run_in_pod(PRETRAIN_REWARD.name, PRETRAIN_REWARD.function, job)
    arguments = {
        "settings": TrainingSettings.of(config).model_dump_json(),
        "reference_images": images,
        "discriminator": outcome(job)["location"],
        "workspace": workspace,
        "processes": 2,
    }
    undisturbed = train(**{**arguments, "workspace": str(tmp_path / "undisturbed")})

    job = write_job(workspace, "train", arguments)
    master, worker = pods.start(TRAIN, job)
    while not _checkpoints(workspace):
        assert master.poll() is worker.poll() is None, pods.log("train")
        time.sleep(0.05)
    kill(worker)
    # The operator's policy ExitCode restarts these statuses.
    assert master.wait(timeout=300) >= 128, pods.log("train")
    failure = json.loads(read_bytes(join(job, f"{FAILURE_PREFIX}0.json")))
    assert failure["kind"] == "RankFailedError"

    assert exit_statuses(pods.start(TRAIN, job)) == [0, 0], pods.log("train")
    assert "resuming from update" in pods.log("train")
    result = outcome(job)
    assert result["metrics"]["policy_updates"] == 4
    trained, expected = local_folder(result["location"]), local_folder(undisturbed.location)
    mine, theirs = (
        load_file(folder / "adapter" / "adapter_model.safetensors")
        for folder in (trained, expected)
    )
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []

    arguments = {
        "settings": config.model_dump_json(),
        "trained": result["location"],
        "discriminator": arguments["discriminator"],
        "reference_images": test_images,
        "workspace": workspace,
        "processes": 2,
    }
    job = write_job(workspace, "evaluate", arguments)
    assert exit_statuses(pods.start(EVALUATE, job)) == [0, 0], pods.log("evaluate")
    # A single machine finds the complete result of two.
    assert evaluate(**{**arguments, "processes": 1}).metrics == outcome(job)["metrics"]


def test_a_pod_that_is_stopped_before_its_ranks_run_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
        }
        with (tmp_path / "log").open("wb") as log:
            pod = subprocess.Popen(
                [sys.executable, "-m", WORKER, "--pod", "train", TRAIN.function, "s3://bucket/job"],
                cwd=ROOT,
                env=environment,
                stderr=log,
            )
        try:
            connection, _ = silent.accept()
            pod.send_signal(signal.SIGTERM)
            assert pod.wait(timeout=30) == Preempted.exit_code
        finally:
            kill(pod)
        connection.close()
    assert "the task train was stopped" in (tmp_path / "log").read_text("utf-8")


def _checkpoints(workspace: str) -> list[str]:
    names = list_files(join(workspace, "training"))
    return [name for name in names if name.endswith("/commit.json")]
