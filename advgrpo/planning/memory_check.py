"""Checks that a training fits into memory, before models are loaded."""

import logging
from pathlib import Path

import psutil

from advgrpo.config.tasks import TrainingSettings
from advgrpo.errors import ConfigError
from advgrpo.planning.fitting import check_fits
from advgrpo.planning.memory import encoding_memory, gpu_memory, host_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.parts import Part, total

logger = logging.getLogger("advgrpo")

# Files of cgroup v2, as a container sees its own group.
_CGROUP = Path("/sys/fs/cgroup")
_OF_FILES = {"active_file", "inactive_file"}


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


def check_gpu_memory(settings: TrainingSettings, *, processes: int, free: int) -> None:
    """Check that a training fits into this process's GPU, as `check_host_memory` does.

    Args:
        settings: Settings of the training.
        processes: Training processes on all machines.
        free: Free memory of the GPU, in bytes.
    """
    _check(
        settings,
        gpu_memory(settings, models_of(settings), processes),
        free,
        where="each GPU's memory",
        repair="set policy.gradient_checkpointing=true, policy.decode_batch_size=1 or "
        "training.offload=optimizer, or lower training.rollout.microbatch_size",
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
