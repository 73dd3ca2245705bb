"""The plan of a run: its estimated memory, work, storage and time."""

from dataclasses import dataclass

from advgrpo.config.run import RunConfig
from advgrpo.errors import ConfigError
from advgrpo.planning.cards import CARDS, Card, card_named
from advgrpo.planning.durations import Duration, durations
from advgrpo.planning.fitting import fit, fitted_values, smaller_training
from advgrpo.planning.memory import encoding_memory, gpu_memory, host_memory
from advgrpo.planning.models import generation_memory, models_of
from advgrpo.planning.parts import Part, total
from advgrpo.planning.space import storage
from advgrpo.planning.work import Work, work_of

GPU_GIB = 80
"""Memory of a GPU that is planned for, unless one is named."""


@dataclass(frozen=True)
class Plan:
    """Estimates of a run on a number of GPUs."""

    gpus: int
    fitted: dict[str, str]
    """Settings that are `auto`, and their values on the GPU, or on one of 80 GiB."""

    gpu_memory: list[Part]
    """Per GPU."""

    host_memory: list[Part]
    """Per training process."""

    encoding_memory: Part
    """Per process that encodes prompts before training starts: one on each machine; with
    `policy.text_device=gpu` one per GPU, which needs as much GPU memory."""

    generation_memory: Part | None
    """Per process that generates reference images; None if no pipeline does."""

    work: Work
    storage: list[Part]
    durations: list[Duration]
    """Of each phase; empty without a GPU's name or a rate."""

    price_per_hour: float | None
    """Of one GPU."""

    currency: str


def plan_run(
    run: RunConfig,
    gpus: int,
    *,
    gpu: str | None = None,
    images_per_second: float | None = None,
    price_per_hour: float | None = None,
    train_prompts: int | None = None,
    test_prompts: int | None = None,
) -> Plan:
    """Estimate what a run needs.

    Args:
        run: The settings; prompt files and commits may be placeholders.
        gpus: Training processes, one per GPU.
        gpu: A key of `cards.CARDS`, for estimates of time.
        images_per_second: Images per second that one GPU samples and updates on, if measured.
        price_per_hour: Price of one GPU; defaults to that of the settings.
        train_prompts: Number of training prompts, if known.
        test_prompts: Number of test prompts, if known.

    Raises:
        ConfigError: If the GPUs cannot share an update, the GPU is not known, or its memory is too
            small; the repair lists what works.
    """
    card = None if gpu is None else card_named(gpu)
    # First: the estimates divide by the number of GPUs without a remainder.
    run.check_ranks(gpus)
    fitted = fit(run, gpus, free=(GPU_GIB if card is None else card.memory_gib) * 2**30)
    run, values = fitted, fitted_values(run, fitted)
    models = models_of(run)
    work, memory = work_of(run, gpus), gpu_memory(run, models, gpus)
    if card is not None:
        _check_card(run, gpus, card, total(memory))
    price = run.evaluation.price_per_hour if price_per_hour is None else price_per_hour
    return Plan(
        gpus=gpus,
        fitted=values,
        gpu_memory=memory,
        host_memory=host_memory(run, models, gpus),
        encoding_memory=encoding_memory(run, models),
        generation_memory=generation_memory(run),
        work=work,
        storage=storage(run, models, train_prompts=train_prompts, test_prompts=test_prompts),
        durations=durations(
            run,
            work,
            gpu=gpu,
            images_per_second=images_per_second,
            train_prompts=train_prompts,
            test_prompts=test_prompts,
        )
        if gpu is not None or images_per_second is not None
        else [],
        price_per_hour=price,
        currency=run.evaluation.currency,
    )


def _check_card(run: RunConfig, gpus: int, card: Card, needed: int) -> None:
    free = card.memory_gib * 2**30
    if needed <= free:
        return
    by_size = sorted(CARDS, key=lambda name: CARDS[name].memory_gib)
    fitting = [name for name in by_size if CARDS[name].memory_gib * 2**30 >= needed]
    raise ConfigError(
        f"training needs about {needed / 2**30:.1f} GiB of GPU memory, and a {card.name} has "
        f"{card.memory_gib} GiB",
        repair=(f"use --gpu {' or '.join(fitting)}, or " if fitting else "")
        + smaller_training(run, gpus, free),
    )
