"""The model card of a registered adapter, as Markdown."""

import math
from collections.abc import Iterable, Iterator

from advgrpo.config.reference_images import ReferenceImagesConfig
from advgrpo.config.run import RunConfig
from advgrpo.records import Comparison, EvaluationReport, GateResult, Interval, TrainingRecord
from advgrpo.registry.evidence import Evidence
from advgrpo.telemetry.formatting import markdown_table

_DESCRIPTION_LIMIT = 5000
_UNKNOWN_LICENCE = "not stated (`promotion.base_model_licence`)"


def model_card(settings: RunConfig, evidence: Evidence) -> str:
    """Return the model card of an adapter.

    Args:
        settings: Settings of its run.
        evidence: Its evaluation, gates and lineage.
    """
    name = settings.promotion.registered_model
    parts = [
        f"# {name}: a LoRA adapter trained by adversarial reward",
        "## Base model and licence",
        _base(settings),
        "## Data",
        _data(settings),
        "## How it was trained",
        _training(settings, evidence.training),
        "## Metrics",
        *_metrics(evidence.report),
        "## Gates",
        "\n".join(_gates(evidence.results)),
        "## Limits",
        _limits(evidence.report),
        "## Lineage",
        "\n".join(markdown_table(("name", "value"), sorted(evidence.lineage.items()))),
    ]
    return "\n\n".join(parts) + "\n"


def short_card(settings: RunConfig, evidence: Evidence) -> str:
    """Return a card within MLflow's limit on descriptions, 5000 characters of Markdown."""
    parts = [
        _training(settings, evidence.training),
        "## Gates",
        "\n".join(_gates(evidence.results)),
        "## Limits",
        _limits(evidence.report),
    ]
    # Cut within the parts, so that the reference to the file stays.
    more = "\n\nThe complete card is `README.md` among the files."
    return "\n\n".join(parts)[: _DESCRIPTION_LIMIT - len(more)] + more


def _base(settings: RunConfig) -> str:
    weights = settings.policy.weights
    revision = f", revision `{weights.revision}`" if weights.revision else ""
    promotion = settings.promotion
    licence = promotion.base_model_licence or _UNKNOWN_LICENCE
    if promotion.base_model_licence_link:
        licence = f"[{licence}]({promotion.base_model_licence_link})"
    return (
        f"`{weights.location}`{revision}, at {settings.policy.resolution_pixels} pixels. Its "
        f"weights are not included. Licence of the base model: {licence}. It also applies to users "
        "of the adapter, as do the terms of the model that generated the reference images."
    )


def _data(settings: RunConfig) -> str:
    prompts, images = settings.prompts, settings.reference_images
    return (
        f"Prompts: `{prompts.train}`; evaluated on `{prompts.test}`, which has no training "
        f"prompts. Reference images: {_origin(images)}, "
        f"{_images_per_prompt(images.of_each_prompt)}. Their hashes are under Lineage."
    )


def _origin(images: ReferenceImagesConfig) -> str:
    return f"source `{images.source.type}`" if images.source else "an existing set"


def _images_per_prompt(images: int | None) -> str:
    return "used for any prompt" if images is None else f"{images} per training prompt"


def _training(settings: RunConfig, record: TrainingRecord) -> str:
    training, adapter = settings.training, settings.policy.adapter
    steps = f"{training.sampling.num_inference_steps} denoising steps"
    evaluated = settings.evaluation.num_inference_steps
    if evaluated not in {None, training.sampling.num_inference_steps}:
        steps += f" ({evaluated} in the evaluation)"
    terms = ", ".join(f"{term.name} (weight {term.weight:g})" for term in training.reward.terms)
    return (
        f"Adv-GRPO (arXiv:2511.20256): {_updates(training.updates, record)} updates of "
        f"{training.rollout.prompts_per_update} prompts x {training.rollout.group_size} images, "
        f"rewarded by {terms}, with a discriminator of type {settings.discriminator.type}. LoRA "
        f"of rank {adapter.rank}, alpha {adapter.alpha:g}; {steps}, guidance "
        f"{training.sampling.guidance_scale:g}; seed {settings.seed}. "
        f"All settings: `settings.json`.\n\n{describe_alarms(record)}"
    )


def _updates(planned: int, record: TrainingRecord) -> str:
    made = planned if record.updates is None else record.updates
    return f"{planned}" if made == planned else f"{made} (of {planned} planned)"


def describe_alarms(record: TrainingRecord) -> str:
    """Return the result of the reward hacking detection as sentences."""
    if record.alarms is None:
        return "Reward hacking detection was off."
    if not record.alarms:
        return "Reward hacking detection raised no alarm."
    first = record.alarms[0]
    ending = (
        "Training stopped there, and the best adapter before it was selected."
        if record.stopped_by_watch
        else "Training continued, as configured."
    )
    count = len(record.alarms)
    raised = "an alarm" if count == 1 else f"{count} alarms, the first"
    return (
        f"Reward hacking detection raised {raised} at update {first.update}: {first.reason}. "
        f"{ending}"
    )


def _metrics(report: EvaluationReport) -> Iterator[str]:
    compared = f", and with version {report.champion}, the champion" if report.champion else ""
    yield (
        f"{report.images} images per model on prompts that were not trained on, compared with the "
        f"base model{compared} on the same prompts and seeds. Bootstrap intervals in brackets."
    )
    independent = [c for c in report.comparisons if not c.trained_on]
    rewarded = [c for c in report.comparisons if c.trained_on]
    yield _comparisons(independent)
    if rewarded:
        yield "Metrics that the reward was trained on, which can rise without better images:"
        yield _comparisons(rewarded)


def _comparisons(comparisons: Iterable[Comparison]) -> str:
    better = {True: "higher", False: "lower", None: "neither"}
    lines = markdown_table(
        ("metric", "better", "base", "trained", "difference", "difference from champion"),
        (
            (
                f"`{c.metric}`",
                better[c.higher_is_better],
                format_interval(c.base),
                format_interval(c.trained),
                format_interval(c.difference),
                ""
                if c.difference_to_champion is None
                else format_interval(c.difference_to_champion),
            )
            for c in comparisons
        ),
    )
    return "\n".join(lines)


def _gates(results: Iterable[GateResult]) -> list[str]:
    lines = [
        f"- {'passed' if result.passed else '**failed**'}: {result.gate}. {result.reason}."
        for result in results
    ]
    return lines or ["No gate was set, so no improvement is shown."]


def _limits(report: EvaluationReport) -> str:
    worse = [c.metric for c in report.comparisons if not c.trained_on and _is_worse(c)]
    text = (
        "It was evaluated at one resolution, with one number of denoising steps and one guidance "
        "scale, on prompts like those it was trained on; otherwise it may be worse than its base "
        "model. The metrics are judgements of models, not of people. It inherits the biases of the "
        "base model and of the reference images."
    )
    return text + (
        f" Significantly worse than the base model: {', '.join(worse)}." if worse else ""
    )


def _is_worse(comparison: Comparison) -> bool:
    if comparison.higher_is_better is None:
        return False
    difference = comparison.difference
    # The whole interval must be on the worse side.
    return difference.high < 0 if comparison.higher_is_better else difference.low > 0


def format_interval(interval: Interval) -> str:
    """Format a mean with its interval; `missing` if it is not finite."""
    if not math.isfinite(interval.mean):
        return "missing"
    return f"{interval.mean:.4g} ({interval.low:.4g} to {interval.high:.4g})"
