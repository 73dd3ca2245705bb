"""The pocket job, reduced until a run takes seconds, and its processes."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from advgrpo.demo.servers import BUCKET
from advgrpo.runtime.processes import CPU_ENVIRONMENT, ONE_MACHINE_ENVIRONMENT
from advgrpo.runtime.remote_call import WORKER
from advgrpo.storage import CACHE_VARIABLE
from advgrpo.storage.fetch import local_file
from advgrpo.telemetry.progress import PROGRESS_FILE
from studies.crash import client
from studies.crash.interpreter import QUIET, Warm
from studies.crash.points import MARK_VARIABLE, POINT_VARIABLE

WORKSPACE = f"s3://{BUCKET}/run"
UPDATES = 4
UPDATES_BETWEEN_CHECKPOINTS = 1
TRAINING = "adversarial training"
"""The phase in which updates are counted."""

_PROMPTS = {"train": 24, "test": 8}
ALGORITHM = os.environ.get("ALGORITHM") or "grpo"
_ALGORITHMS = {
    "grpo": ("training.algorithm.window={type: fixed, start: 0, length: 2}",),
    # Checkpoints then hold earlier rollouts, and updates read reference images.
    "nft": (
        "training.algorithm={type: nft}",
        "training.rollout.replayed_rollouts=2",
        "training.rollout.references_per_prompt=4",
    ),
    "awm": ("training.algorithm={type: awm}",),
}
_SETTINGS = (
    f"training.updates={UPDATES}",
    f"training.checkpoint_every_updates={UPDATES_BETWEEN_CHECKPOINTS}",
    "training.sampling.num_inference_steps=3",
    *_ALGORITHMS[ALGORITHM],
    "training.rollout.prompts_per_update=2",
    "training.rollout.group_size=4",
    "training.rollout.microbatch_size=4",
    "training.update_schedule.discriminator_steps=2",
    "training.monitoring.held_out_prompts=4",
    "training.monitoring.held_out_every_updates=2",
    "training.monitoring.grid_images=4",
    "discriminator.optimizer.batch_size=8",
    "discriminator.optimizer.replay_images=16",
    "discriminator.held_out_fraction=0.3",
    "discriminator.pretraining.images=16",
    "discriminator.pretraining.held_out_images=16",
    "discriminator.pretraining.steps=8",
    "discriminator.pretraining.target_accuracy=1.0",
    "reference_images.images_per_prompt=1",
    "reference_images.test_images_per_prompt=1",
    "reference_images.batch_size=2",
    "evaluation.images_per_prompt=1",
    "evaluation.batch_size=2",
    "evaluation.bootstrap_samples=50",
)


@dataclass
class Attempt:
    """One start of the job's command."""

    process: subprocess.Popen[bytes]
    warm: Warm
    log: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def running(self) -> bool:
        """Whether the command has not ended."""
        return self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return the job's processes, that of the command first."""
        found = [*self.warm.processes()]
        with suppress(psutil.NoSuchProcess):
            found.insert(0, psutil.Process(self.process.pid))
        return [process for process in found if _is_alive(process)]

    def process_group(self) -> list[psutil.Process]:
        """Return the processes of the ranks; in a phase without ranks, that of the task."""
        found: dict[bool, list[psutil.Process]] = {True: [], False: []}
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if client.__file__ in words and "-m" in words:
                    module = words[words.index("-m") + 1]
                    if module == WORKER:
                        found[True].append(process)
                    elif module == "kfp.dsl.executor_main":
                        found[False].append(process)
        return found[True] or found[False]

    def kill(self) -> None:
        """Kill every process of the job at once."""
        while processes := self.processes():
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.poll()
            time.sleep(0.02)
        self.process.wait()

    def wait(self, timeout_seconds: float) -> int:
        """Wait for the command's end and return its exit status.

        Raises:
            TimeoutError: If it takes longer.
        """
        try:
            return self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired as error:
            for fork in self.warm.forks():
                # faulthandler prints its stacks to the log.
                with suppress(psutil.NoSuchProcess):
                    fork.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
            raise TimeoutError(f"the job did not end within {timeout_seconds:.0f} s") from error

    def text(self) -> str:
        """Return its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Job:
    """One run of the pipeline, over all attempts at it.

    Args:
        folder: The machine's disk: caches, records for MLflow, artifacts, temporary files.
        logs: Folder for the logs of the attempts.
        key: Key of its MLflow run.
        stores: Environment variables of the servers.
    """

    def __init__(self, folder: Path, logs: Path, key: str, stores: Mapping[str, str]) -> None:
        self.folder, self.key = folder, key
        self._logs, self._stores = logs, stores
        self._attempts = 0
        self.progress, self.mark = logs / "progress.jsonl", logs / "mark"
        self.output = logs / "outputs.json"
        logs.mkdir(parents=True)

    def start(self, warm: Warm, *, point: str = "") -> Attempt:
        """Start or resume the job, by the same command.

        Args:
            warm: Interpreter that its processes are forked from.
            point: Point of the code at which a process waits until it is killed; empty for none.
        """
        self._attempts += 1
        log = self._logs / f"attempt-{self._attempts}.log"
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        variables = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MLFLOW_"))},
            **CPU_ENVIRONMENT,
            **ONE_MACHINE_ENVIRONMENT,
            **QUIET,
            **self._stores,
            CACHE_VARIABLE: str(self.folder / "cache"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "TMPDIR": str(temporary),
            PROGRESS_FILE: str(self.progress),
            POINT_VARIABLE: point,
            MARK_VARIABLE: str(self.mark),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(warm.program), *self._command()],
                stdout=output,
                stderr=output,
                env=variables,
                start_new_session=True,
            )
        return Attempt(process, warm, log)

    def events(self) -> list[dict[str, object]]:
        """Return the progress events of all attempts."""
        if not self.progress.exists():
            return []
        found = []
        for line in self.progress.read_text(encoding="utf-8").splitlines():
            # The last line of a killed process may be incomplete.
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def where(self) -> str:
        """Return how far the job has come, as text."""
        task = phase = ""
        for event in self.events():
            if "phase" in event:
                phase = f"{event['phase']} {event['done']}/{event['total']}"
            elif event["state"] == "started":
                task, phase = str(event["task"]), ""
            elif event["task"] == task:
                phase = "ending"
        return f"{task or 'start'}{f', {phase}' if phase else ''}"

    def updates(self) -> int:
        """Return the number of completed updates."""
        done = [e["done"] for e in self.events() if e.get("phase") == TRAINING]
        return max((n for n in done if isinstance(n, int)), default=0)

    def forget_machine(self) -> None:
        """Delete the machine's disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self) -> Sequence[str]:
        prompts = [f"prompts.{name}={self._prompts(name)}" for name in _PROMPTS]
        settings = [word for text in (*prompts, *_SETTINGS) for word in ("--set", text)]
        return [
            *("-m", "advgrpo.cli.main", "pipeline", "run", "--verbose"),
            *("--preset", "pocket", *settings),
            *("--processes", "2", "--workspace", WORKSPACE, "--run-key", self.key),
            *("--artifacts", str(self.folder / "artifacts"), "--output", str(self.output)),
        ]

    def _prompts(self, name: str) -> Path:
        """Write a few of the shipped prompts into a folder that all runs share."""
        path = self._logs.parent / f"{name}.txt"
        if not path.exists():
            shipped = local_file(f"package://advgrpo.pocket/prompts/{name}.txt")
            lines = shipped.read_text(encoding="utf-8").splitlines()[::9][: _PROMPTS[name]]
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path
