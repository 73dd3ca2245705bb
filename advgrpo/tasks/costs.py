"""Time and memory of each phase of a run, for the report."""

from collections.abc import Mapping
from pathlib import Path

from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import ReferenceImagesSettings
from advgrpo.data.prompts import Prompts
from advgrpo.evaluation.costs import PhaseCost
from advgrpo.reference_images.request import cost_file, requested_sets
from advgrpo.runtime.results import read_metrics
from advgrpo.runtime.timing import Elapsed, read_elapsed
from advgrpo.storage.fetch import local_folder


def phase_costs(
    config: RunConfig,
    prompts: Prompts,
    discriminator: str,
    trained: Path,
    spent: str,
    *,
    metrics: Mapping[str, float],
    workspace: str,
) -> list[PhaseCost]:
    """Return the costs of all phases up to the evaluation.

    Args:
        config: The run's settings.
        prompts: The run's prompts.
        discriminator: Location of the pre-trained discriminator; empty if there is none.
        trained: The training's result.
        spent: Location of the evaluation's recorded time.
        metrics: Metrics of the evaluation.
        workspace: Local path or `s3://` location of the reference images.
    """
    return [
        _reference_images(config, prompts, workspace),
        _pretraining(config, read_metrics(local_folder(discriminator)) if discriminator else None),
        _training(read_metrics(trained)),
        _evaluation(spent, metrics),
    ]


def _reference_images(config: RunConfig, prompts: Prompts, workspace: str) -> PhaseCost:
    name = "Reference images"
    if config.reference_images.existing is not None:
        return PhaseCost(name, None, note="an existing set")
    sets = [one for one in read_generation_times(config, prompts, workspace) if one is not None]
    # A sum over one of the two sets would look like the whole cost.
    if len(sets) < 2:
        return PhaseCost(name, None, note="not recorded")
    return PhaseCost(
        name,
        sum(one.seconds for one in sets),
        images=sum(one.images for one in sets),
        processes=max(one.processes for one in sets),
        on_gpu=any(one.on_gpu for one in sets),
    )


def _pretraining(config: RunConfig, metrics: Mapping[str, float] | None) -> PhaseCost:
    name = "Reward pre-training"
    if metrics is None:
        return PhaseCost(name, None, note="no discriminator")
    settings = config.discriminator.pretraining
    return PhaseCost(
        name,
        metrics["cost/seconds"],
        images=settings.images + settings.held_out_images,
        peak_memory_mib=metrics["cost/peak_memory_mib"],
        on_gpu=bool(metrics.get("cost/on_gpu", 0)),
    )


def _training(metrics: Mapping[str, float]) -> PhaseCost:
    return PhaseCost(
        "Adversarial training",
        sum(value for name, value in metrics.items() if name.startswith("seconds/")),
        images=int(metrics["images_sampled"]),
        peak_memory_mib=metrics["cost/peak_memory_mib"],
        # Imported adapters lack it.
        processes=int(metrics.get("cost/processes", 1)),
        on_gpu=bool(metrics.get("cost/on_gpu", 0)),
    )


def _evaluation(spent: str, metrics: Mapping[str, float]) -> PhaseCost:
    noted = read_elapsed(spent)
    # The task evaluate has written it before it collects costs.
    assert noted is not None
    return PhaseCost(
        "Evaluation",
        noted.seconds,
        images=noted.images,
        peak_memory_mib=metrics["cost/peak_memory_mib"],
        processes=noted.processes,
        on_gpu=noted.on_gpu,
    )


def read_generation_times(
    config: RunConfig, prompts: Prompts, workspace: str
) -> list[Elapsed | None]:
    """Return the recorded generation time of each set; None if there is no record."""
    if config.reference_images.serve_any_prompt:
        return [None, None]
    sets = requested_sets(ReferenceImagesSettings.of(config), prompts)
    return [read_elapsed(cost_file(each.location(workspace))) for each in sets]
