"""`advgrpo plan`: estimate what a run needs."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from advgrpo.cli.options import DEFAULT_PRESET, Overrides, Preset

if TYPE_CHECKING:
    from advgrpo.planning import Part, Plan, Work


def plan(
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Number of GPUs.")] = 1,
    images_per_second: Annotated[
        float | None,
        typer.Option(
            "--images-per-second",
            # Not 0: the duration divides by it.
            min=1e-6,
            help="Throughput of one GPU over whole updates, as measured.",
        ),
    ] = None,
    measured: Annotated[
        str | None,
        typer.Option(
            "--measured",
            metavar="FOLDER",
            help="Result of a training with these settings, on disk or s3://, for its throughput.",
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", help="Kind of GPU to estimate the time for: h100, h200, a100, l40s, rtx4090."
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(
            "--price",
            min=0,
            help="Price of one GPU for an hour. Default: evaluation.price_per_hour.",
        ),
    ] = None,
    train_prompts: Annotated[
        int | None,
        typer.Option(
            "--train-prompts", min=1, help="Number of prompts. Default: those of the file."
        ),
    ] = None,
    test_prompts: Annotated[
        int | None,
        typer.Option(
            "--test-prompts", min=1, help="Number of prompts. Default: those of the file."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with sizes in bytes.")
    ] = False,
) -> None:
    """Estimate memory, work, storage and time of a run, without weights or GPU.

    Models are built from the shapes of published weights, or from config.json in a folder.
    """
    from advgrpo.config.resolution import resolve

    # An estimate needs neither commits nor prompt files.
    run = resolve(preset, overrides, needed=())
    # Loads torch, which takes seconds: wrong settings are reported before that.
    from advgrpo.planning import plan_run

    planned = plan_run(
        run,
        gpus,
        gpu=gpu,
        images_per_second=images_per_second if measured is None else _measured_rate(measured),
        price_per_hour=price,
        # The options come first: they spare reading files, which may be on S3 or not exist yet.
        train_prompts=train_prompts or _count(run.prompts.train),
        test_prompts=test_prompts or _count(run.prompts.test),
    )
    if as_json:
        print(json.dumps(asdict(planned), indent=2))
    else:
        print("\n".join(_lines(preset, planned)))


def _count(location: str) -> int | None:
    from advgrpo.config.required import is_given
    from advgrpo.data.prompts import read_prompts
    from advgrpo.storage.fetch import local_file

    # Placeholders of a draft name files that do not exist.
    return len(read_prompts(local_file(location))) if is_given(location) else None


def _lines(preset: str, planned: "Plan") -> Iterable[str]:
    yield f"{preset} on {planned.gpus} GPU{'s' if planned.gpus > 1 else ''}"
    if planned.fitted:
        values = ", ".join(f"{name}={value}" for name, value in planned.fitted.items())
        yield f"fitted to its memory: {values}"
    yield from _table("memory per GPU", planned.gpu_memory)
    yield from _table("host memory per process", planned.host_memory)
    yield from _table(
        "memory per process that encodes prompts, before training starts",
        [planned.encoding_memory],
    )
    if planned.generation_memory is not None:
        yield from _table(
            "memory per process that generates reference images, on its GPU if it has one",
            [planned.generation_memory],
        )
    yield from _work(planned.work)
    yield from _table("storage", planned.storage)
    yield from _durations(planned)


def _durations(planned: "Plan") -> Iterable[str]:
    from advgrpo.telemetry.formatting import format_table

    yield "\ntime"
    if not planned.durations:
        yield "  unknown: use --gpu with a kind of GPU, or --images-per-second with a measured rate"
        return
    price = planned.price_per_hour
    rows = [("phase", "hours", "GPU hours", planned.currency if price is not None else "", "")]
    for each in planned.durations:
        hours = each.gpu_hours
        rows.append(
            (each.phase, "unknown", "", "", each.how)
            if hours is None
            else (each.phase, *_hours(hours, planned), each.how)
        )
    known = sum(each.gpu_hours or 0.0 for each in planned.durations)
    rows.append(("total", *_hours(known, planned), ""))
    yield from (f"  {line}" for line in format_table(rows, right=[1, 2, 3]))
    yield "  not included: loading, text encoding, held-out metrics, the discriminator's steps"


def _hours(gpu_hours: float, planned: "Plan") -> tuple[str, str, str]:
    price = planned.price_per_hour
    money = "" if price is None else f"{price * gpu_hours:,.2f}"
    return f"{gpu_hours / planned.gpus:,.1f}", f"{gpu_hours:,.1f}", money


def _measured_rate(location: str) -> float:
    """Read the throughput of one GPU from the result of a training."""
    from advgrpo.errors import ConfigError
    from advgrpo.runtime.results import METRICS_FILE
    from advgrpo.storage.files import read_bytes
    from advgrpo.storage.locations import join
    from advgrpo.strict_json import load_json_object

    path = join(location, METRICS_FILE)
    try:
        metrics = load_json_object(read_bytes(path).decode())
        seconds = sum(value for name, value in metrics.items() if name.startswith("seconds/"))
        return float(metrics["images_sampled"] / seconds / metrics.get("cost/processes", 1))
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"--measured {location}: {METRICS_FILE} is not that of a training: {error!r}",
            repair="use the folder that `advgrpo train` wrote, or --images-per-second",
        ) from error


def _table(title: str, parts: list["Part"]) -> Iterable[str]:
    from advgrpo.planning.parts import total, unknown
    from advgrpo.telemetry.formatting import format_table

    rows = [
        (part.name, "unknown" if part.bytes is None else _size(part.bytes), part.how)
        for part in parts
    ]
    # Transient parts never exist at the same time; see `planning.parts.total`.
    notes = ["only the largest estimate is counted"] if any(p.is_transient for p in parts) else []
    if missing := unknown(parts):
        notes.append(f"not included: {', '.join(missing)}")
    rows.append(("total", _size(total(parts)), "; ".join(notes)))
    yield f"\n{title}"
    yield from (f"  {line}" for line in format_table(rows, right=[1]))


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count / 2**10:,.2f} KiB"


def _work(work: "Work") -> Iterable[str]:
    from advgrpo.telemetry.formatting import format_table

    counts = {
        "rollouts": work.rollouts_per_update,
        "images": work.images_per_update,
        "transformer passes of the rollout": work.rollout_passes_per_update,
        "passes of the update, forward and backward": work.update_passes_per_update,
        "passes of the update, forward only": work.extra_passes_per_update,
    }
    steps, discriminator = work.optimizer_steps, work.discriminator_steps
    rows = [
        ("work", "per update", "total"),
        *((name, f"{n:,.0f}", f"{n * work.updates:,.0f}") for name, n in counts.items()),
        ("policy optimizer steps", f"{steps / work.updates:,.0f}", f"{steps:,}"),
        (
            "discriminator steps",
            f"{work.discriminator_steps_per_update:,}",
            f"{discriminator:,}",
        ),
    ]
    # The title is not indented, and its other columns must align with those of the indented lines.
    head, *lines = format_table(rows, right=[1, 2])
    yield f"\n{head[:4]}  {head[4:]}"
    yield from (f"  {line}" for line in lines)
    if work.note:
        yield f"  {work.note}"
