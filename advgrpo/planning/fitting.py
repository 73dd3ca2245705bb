"""Settings that are fitted to memory, and checks that a training fits before models are loaded."""

import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import psutil

from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import TrainingSettings
from advgrpo.errors import ConfigError
from advgrpo.planning.memory import encoding_memory, gpu_memory, host_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.parts import Part, total
from advgrpo.planning.work import images_per_gpu

LARGEST_MICROBATCH = 16
"""A larger one makes nothing faster: its products fill a GPU."""

CPU_MICROBATCH = 8
UNKNOWN_MICROBATCH = 6
"""Of a transformer whose activations cannot be estimated."""

FEW_IMAGES = 2
"""Fewer at once leave a GPU idle for longer than recomputed activations take."""

HEADROOM = 0.9
"""Share of the free memory that is planned with, because activations are estimates."""

_GIB = 2**30

# Files of cgroup v2, as a container sees its own group.
_CGROUP = Path("/sys/fs/cgroup")
_OF_FILES = {"active_file", "inactive_file"}

logger = logging.getLogger("advgrpo")

S = TypeVar("S", RunConfig, TrainingSettings)


def fit(settings: S, processes: int, *, free: int | None) -> S:
    """Replace `auto` by what trains fastest among what fits into memory.

    Args:
        settings: With microbatch, gradient checkpointing or guidance `auto`, or none of them.
        processes: Training processes on all machines.
        free: Free memory of each GPU, in bytes; None on CPUs.

    Returns:
        Settings without `auto`; those that need the least memory if nothing fits.
    """
    if free is None:
        return next(_choices(settings, processes, most=CPU_MICROBATCH, recompute=(False, True)))
    models = models_of(settings)
    if isinstance(models.policy, str):
        return next(_choices(settings, processes, most=UNKNOWN_MICROBATCH, recompute=(True,)))
    choices = _choices(settings, processes, most=LARGEST_MICROBATCH, recompute=(False, True))
    for fitted in choices:
        if total(gpu_memory(fitted, models, processes)) <= HEADROOM * free:
            break
    return fitted


def fitted_values(before: RunConfig | TrainingSettings, after: S) -> dict[str, str]:
    """Return the settings that `fit` replaced, with their values."""
    policy, rollout = before.policy, before.training.rollout
    values = {
        "training.rollout.microbatch_size": (
            rollout.microbatch_size,
            after.training.rollout.microbatch_size,
        ),
        "policy.gradient_checkpointing": (
            policy.gradient_checkpointing,
            after.policy.gradient_checkpointing,
        ),
        "policy.guidance": (policy.guidance, after.policy.guidance),
    }
    return {name: str(new).lower() for name, (old, new) in values.items() if old == "auto"}


def _choices(settings: S, processes: int, *, most: int, recompute: tuple[bool, ...]) -> Iterator[S]:
    """Yield settings without `auto`, in the order of their speed."""
    policy, rollout = settings.policy, settings.training.rollout
    images = images_per_gpu(settings, processes) // settings.training.optimizer_steps_per_update
    # Of the images that train, unless they have a size of their own.
    trained = images * rollout.trained_per_prompt // rollout.group_size
    both = images if rollout.update_microbatch_size else math.gcd(images, trained)
    sizes = [n for n in range(most, 0, -1) if both % n == 0]
    if rollout.microbatch_size != "auto":
        sizes = [rollout.microbatch_size]
    if policy.gradient_checkpointing != "auto":
        recompute = (policy.gradient_checkpointing,)
    ways: list[Literal["one_batch", "two_passes"]] = ["one_batch", "two_passes"]
    if policy.guidance != "auto":
        ways = [policy.guidance]
    for recomputed in recompute:
        for size in sizes:
            if size < FEW_IMAGES <= max(sizes) and not recomputed and len(recompute) > 1:
                continue
            # Without recomputation, two passes store the activations of both.
            for way in ways if recomputed else ways[:1]:
                yield settings.model_copy(
                    update={
                        "policy": policy.model_copy(
                            update={"gradient_checkpointing": recomputed, "guidance": way}
                        ),
                        "training": settings.training.model_copy(
                            update={"rollout": rollout.model_copy(update={"microbatch_size": size})}
                        ),
                    }
                )


def check_host_memory(
    settings: TrainingSettings, *, processes: int, here: int, on_gpu: bool, free: int
) -> None:
    """Check that a training fits into the memory of this machine.

    Args:
        settings: Settings of the training.
        processes: Training processes on all machines.
        here: Training processes on this machine.
        on_gpu: Whether models are on GPUs.
        free: Free memory of this machine, in bytes.

    Raises:
        ConfigError: If it does not fit and `training.memory_check` is `refuse`. Names settings to
            change.
    """
    if not on_gpu:
        settings = fit(settings, processes, free=None)
    models = models_of(settings)
    each = host_memory(settings, models, processes)
    # Without a GPU, the models are in host memory too.
    if not on_gpu:
        each += gpu_memory(settings, models, processes)
    # Encoders are loaded on the host before they are moved to a GPU.
    encoding = encoding_memory(settings, models)
    # On GPUs each process encodes a share of the prompts; on a CPU one process encodes all of them.
    encoders = here if on_gpu and settings.policy.text_device == "gpu" else 1
    # The encoders are freed before the training processes start, so the larger of the two decides.
    parts = [
        Part(f"{here} processes", here * total(each), "", is_transient=True),
        Part(
            f"{encoders} x {encoding.name}",
            encoders * (encoding.bytes or 0),
            encoding.how,
            is_transient=True,
        ),
    ]
    _check(
        settings,
        parts,
        free,
        where="this machine's memory",
        repair="lower discriminator.optimizer.replay_images or the number of processes on a "
        "machine, or set policy.text_dtype=bfloat16 or policy.text_device=cpu",
    )


def check_gpu_memory(
    settings: TrainingSettings, *, processes: int, free: int, card: str = ""
) -> None:
    """Check that a training fits into this process's GPU, as `check_host_memory` does.

    Args:
        settings: Settings of the training.
        processes: Training processes on all machines.
        free: Free memory of the GPU, in bytes.
        card: Name of the GPU, for the error.
    """
    parts = gpu_memory(settings, models_of(settings), processes)
    _check(
        settings,
        parts,
        free,
        where=f"each GPU's memory ({card})" if card else "each GPU's memory",
        repair="" if total(parts) <= free else smaller_training(settings, processes, free),
    )


def smaller_training(settings: S, processes: int, free: int) -> str:
    """Return the settings that fit into a GPU, or else the memory that the smallest ones need."""
    rollout = settings.training.rollout.model_copy(
        update={"microbatch_size": "auto", "update_microbatch_size": None}
    )
    policy = {"gradient_checkpointing": "auto", "guidance": "auto"}
    before = settings.model_copy(
        update={
            "policy": settings.policy.model_copy(update=policy),
            "training": settings.training.model_copy(update={"rollout": rollout}),
        }
    )
    smallest = fit(before, processes, free=free)
    needed = total(gpu_memory(smallest, models_of(smallest), processes))
    changed = ", ".join(f"{k}={v}" for k, v in fitted_values(before, smallest).items())
    if needed <= free:
        return f"set {changed}"
    return (
        f"use GPUs with {needed / _GIB:.1f} GiB free and {changed}, or set "
        "policy.decode_batch_size=1, training.zero_stage=3 or training.offload=optimizer"
    )


def check_fits(parts: Iterable[Part], free: int, *, where: str, repair: str) -> None:
    """Check that memory is sufficient before a training starts.

    Args:
        parts: Parts of the estimate; unknown ones are ignored.
        free: Free bytes.
        where: Kind of memory, for the error.
        repair: Settings that reduce it.

    Raises:
        ConfigError: If the known parts are larger; names the largest ones.
    """
    # Unknown parts count as nothing, so this never refuses what fits.
    known = list(parts)
    needed = total(known)
    if needed <= free:
        return
    largest = sorted(known, key=lambda part: part.bytes or 0, reverse=True)[:3]
    details = ", ".join(f"{part.name} {(part.bytes or 0) / _GIB:.2f} GiB" for part in largest)
    raise ConfigError(
        f"training needs about {needed / _GIB:.2f} GiB of {where}, where {free / _GIB:.2f} GiB are "
        f"free; the largest parts: {details}",
        repair=f"{repair}; or set training.memory_check=warn to start anyway (`advgrpo plan` shows "
        "the estimate)",
    )


def free_host_memory() -> int:
    """Return the free memory of this machine or its container, in bytes."""
    # psutil reports the whole machine, also inside a container.
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="utf-8"))
        used = int((_CGROUP / "memory.current").read_text(encoding="utf-8"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines()
        # The page cache counts as used, but the kernel reclaims it under pressure.
        used -= sum(int(line.split()[1]) for line in lines if line.split()[0] in _OF_FILES)
    except (OSError, ValueError):
        # Not in a container, or in one without a limit ("max").
        return free
    return min(free, limit - used)


def _check(
    settings: TrainingSettings, parts: list[Part], free: int, *, where: str, repair: str
) -> None:
    try:
        check_fits(parts, free, where=where, repair=repair)
    except ConfigError as error:
        if settings.training.memory_check == "refuse":
            raise
        # Without the repair, which is about the refusal.
        logger.warning("%s", error.message)
