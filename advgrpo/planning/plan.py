"""What a run needs, told before it is started: no weights, no torch, no GPU."""

from dataclasses import dataclass

from advgrpo.config import RunConfig
from advgrpo.planning.memory import encoding_memory, gpu_memory, host_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.parts import Part
from advgrpo.planning.space import storage
from advgrpo.planning.work import Work, work_of


@dataclass(frozen=True)
class Duration:
    """Of sampling and updating all images at a given rate; nothing else."""

    images_per_second: float
    """Of one GPU, whole update included."""

    hours: float
    gpu_hours: float
    price: float | None
    """In the currency of the settings; None if no price is given."""


@dataclass(frozen=True)
class Plan:
    """What a run needs on so many GPUs."""

    gpus: int
    gpu_memory: list[Part]
    """Of each GPU."""

    host_memory: list[Part]
    """Of each training process."""

    encoding_memory: Part
    """Of a process that encodes prompts before the others start: one on each machine, or with
    `policy.text_device=gpu` one for each of its GPUs, which takes as much of the GPU."""

    work: Work
    storage: list[Part]
    duration: Duration | None
    """None without a rate: there is none to assume."""

    currency: str


def plan_run(
    run: RunConfig,
    gpus: int,
    *,
    images_per_second: float | None = None,
    price_per_hour: float | None = None,
    train_prompts: int | None = None,
    test_prompts: int | None = None,
) -> Plan:
    """Tell what a run needs.

    Args:
        run: The settings; prompt files and commits may be placeholders.
        gpus: Training processes, one per GPU.
        images_per_second: Images that one GPU samples and updates on; None leaves the time open.
        price_per_hour: Of one GPU; None takes that of the settings.
        train_prompts: How many prompts are trained on; None leaves the storage open.
        test_prompts: How many are measured on.

    Raises:
        ConfigError: If so many GPUs cannot share an update; names numbers that work.
    """
    run.check_ranks(gpus)
    models = models_of(run)
    work = work_of(run, gpus)
    price = run.evaluation.price_per_hour if price_per_hour is None else price_per_hour
    return Plan(
        gpus=gpus,
        gpu_memory=gpu_memory(run, models, gpus),
        host_memory=host_memory(run, models, gpus),
        encoding_memory=encoding_memory(run, models),
        work=work,
        storage=storage(run, models, train_prompts=train_prompts, test_prompts=test_prompts),
        duration=_duration(work, gpus, images_per_second, price),
        currency=run.evaluation.currency,
    )


def _duration(
    work: Work, gpus: int, images_per_second: float | None, price: float | None
) -> Duration | None:
    if images_per_second is None:
        return None
    gpu_hours = work.images / images_per_second / 3600
    return Duration(
        images_per_second=images_per_second,
        hours=gpu_hours / gpus,
        gpu_hours=gpu_hours,
        price=None if price is None else price * gpu_hours,
    )
