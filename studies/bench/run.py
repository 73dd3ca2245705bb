"""Timing of whole updates and their parts, and of the comparison loop."""

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from advgrpo.models.policies.pipeline_parts import DTYPES
from advgrpo.runtime.peak_memory import peak_memory_mib
from advgrpo.training.loop import train_on_rollout
from advgrpo.training.metrics import measure_held_out
from advgrpo.training.reward_hacking import watch_reward
from advgrpo.training.state import TrainingState
from studies.bench.comparison import DISCRIMINATOR_ROLLOUTS, ComparisonLoop
from studies.bench.measure import (
    CHECKS,
    CountingCounters,
    PartTimes,
    TimedCounters,
    TimedGuard,
    matmul_rate,
    peak_memory,
)
from studies.bench.world import SIZES, make_world

UPDATE, HELD_OUT, CHECKPOINT = "update", "held-out measures and watch", "checkpoint"
TO_DISCRIMINATOR, TO_POLICY = "rollout for the discriminator", "rollout for the policy"
BESIDE = (CHECKS, HELD_OUT, CHECKPOINT)
PARTS = ("rollout", "reward", "policy update", "discriminator update")


@dataclass(frozen=True)
class Result:
    """Result of a run of the benchmark."""

    words: str
    device: str
    dtype: str
    torch: str
    threads: int
    rounds: int
    images: int
    """Images of a rollout, in either loop."""

    matmul_rate: float
    """Operations per second of a large matrix product in the transformer's precision."""

    preparation_seconds: float
    """Loading, prompt embeddings and features of reference images: once a run."""

    seconds: dict[str, float]
    """Median seconds of each part of an update."""

    comparison_seconds: dict[str, float]
    """Median seconds of each kind of rollout of the comparison loop."""

    operations: dict[str, int]
    """Floating point operations of each part of an update."""

    peak_memory_mib: dict[str, float]
    """GPU memory of each loop; of a CPU, the whole process."""

    every_updates: dict[str, int]
    """Updates between two checkpoints and between two held-out evaluations of the preset; checks
    are part of each update."""

    def as_json(self) -> dict[str, Any]:
        """Return the numbers and the ratios that follow from them."""
        return {**dataclasses.asdict(self), "ratios": self.ratios()}

    def ratios(self) -> dict[str, float]:
        """Compare the loops; the first two ratios are of this one to the other."""
        cycle = (
            DISCRIMINATOR_ROLLOUTS * self.comparison_seconds[TO_DISCRIMINATOR]
            + self.comparison_seconds[TO_POLICY]
        )
        per_update = self.seconds[UPDATE]
        return {
            "images_per_second": (DISCRIMINATOR_ROLLOUTS + 1) ** -1 * cycle / per_update,
            "policy_updates_per_second": cycle / per_update,
            **{
                f"share_of_matmul_rate/{part}": count / self.seconds[part] / self.matmul_rate
                for part, count in self.operations.items()
            },
            **{
                f"share_of_update/{part}": self.seconds[part] / every / per_update
                for part, every in self.every_updates.items()
            },
        }


def benchmark(size: str, folder: Path, *, rounds: int, overrides: tuple[str, ...] = ()) -> Result:
    """Time updates of a size; the first round warms up.

    Args:
        size: One of `SIZES`.
        folder: For models, images and features; files of an earlier run are reused.
        rounds: Number of times that each part is timed.
        overrides: Further settings.
    """
    preparation = PartTimes(torch.device("cpu"))
    with preparation.timed("all"):
        world = make_world(SIZES[size], folder, *overrides)
    device, config = world.state.process_group.device, world.config
    times, peaks, loop = PartTimes(device), dict[str, float](), ComparisonLoop(world)
    state = dataclasses.replace(
        world.state,
        counters=TimedCounters(times),
        guard=TimedGuard(world.state.guard, times),
    )
    dtype, rates = config.policy.forward_dtype, list[float]()
    for number in range(rounds + 1):
        if number == 1:
            times.seconds.clear()
        _one_round(state, loop, times, peaks)
        # Interleaved with the rest, because other programs may slow the machine for a while.
        rates.append(matmul_rate(device, DTYPES[dtype]))
    if not peaks:
        peaks["the whole process"] = peak_memory_mib()
    counting = CountingCounters(device)
    train_on_rollout(dataclasses.replace(world.state, counters=counting))
    return Result(
        words=SIZES[size].words,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        dtype=dtype,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        rounds=rounds,
        images=loop.images,
        matmul_rate=statistics.median(rates[1:]),
        preparation_seconds=preparation.median("all"),
        seconds={part: times.median(part) for part in (UPDATE, *PARTS, *BESIDE)},
        comparison_seconds={part: times.median(part) for part in (TO_DISCRIMINATOR, TO_POLICY)},
        operations={part: counting.operations[part] for part in PARTS},
        peak_memory_mib=peaks,
        every_updates={
            CHECKS: 1,
            CHECKPOINT: config.training.checkpoint_every_updates,
            HELD_OUT: config.training.monitoring.held_out_every_updates,
        },
    )


def _one_round(
    state: TrainingState, loop: ComparisonLoop, times: PartTimes, peaks: dict[str, float]
) -> None:
    device = state.process_group.device
    with times.timed(UPDATE), peak_memory(device, peaks, "advgrpo"):
        state.log_metrics(train_on_rollout(state))
    with times.timed(HELD_OUT):
        measure_held_out(state)
        watch_reward(state)
    state.save()
    with times.timed(TO_DISCRIMINATOR), peak_memory(device, peaks, "comparison loop"):
        loop.train_discriminator()
    with times.timed(TO_POLICY), peak_memory(device, peaks, "comparison loop"):
        loop.train_policy()
