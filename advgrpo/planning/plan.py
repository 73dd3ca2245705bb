"""The plan of a run: its estimated memory, work, storage and time."""

from dataclasses import dataclass

from advgrpo.config.run import RunConfig
from advgrpo.planning.memory import encoding_memory, gpu_memory, host_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.parts import Part
from advgrpo.planning.space import storage
from advgrpo.planning.work import Work, work_of


@dataclass(frozen=True)
class Duration:
    """Time to sample and update on all images at a given rate; nothing else is included."""

    images_per_second: float
    """Throughput of one GPU over a whole update."""

    hours: float
    gpu_hours: float
    price: float | None
    """In the currency of the settings; None without a price."""


@dataclass(frozen=True)
class Plan:
    """Estimates of a run on a number of GPUs."""

    gpus: int
    gpu_memory: list[Part]
    """Per GPU."""

    host_memory: list[Part]
    """Per training process."""

    encoding_memory: Part
    """Per process that encodes prompts before training starts: one on each machine; with
    `policy.text_device=gpu` one per GPU, which needs as much GPU memory."""

    work: Work
    storage: list[Part]
    duration: Duration | None
    """None without a given rate."""

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
    """Estimate what a run needs.

    Args:
        run: The settings; prompt files and commits may be placeholders.
        gpus: Training processes, one per GPU.
        images_per_second: Images per second that one GPU samples and updates on, if known.
        price_per_hour: Price of one GPU; defaults to that of the settings.
        train_prompts: Number of training prompts, if known.
        test_prompts: Number of test prompts, if known.

    Raises:
        ConfigError: If the GPUs cannot share an update; the repair lists numbers that work.
    """
    # First: the estimates divide by the number of GPUs without a remainder.
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
    # The rate is that of one GPU, so GPU hours do not depend on the number of GPUs.
    gpu_hours = work.images / images_per_second / 3600
    return Duration(
        images_per_second=images_per_second,
        hours=gpu_hours / gpus,
        gpu_hours=gpu_hours,
        price=None if price is None else price * gpu_hours,
    )
