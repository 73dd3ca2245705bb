"""The report of a run: one HTML page without scripts, external files or network access."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from advgrpo.config.run import RunConfig
from advgrpo.data.images import encode_png, to_pil
from advgrpo.evaluation import formatting
from advgrpo.evaluation.charts import interval_strip
from advgrpo.evaluation.costs import PhaseCost, Price, cost_per_gain, cost_rows
from advgrpo.evaluation.curves import History, training_curves
from advgrpo.evaluation.results import Evaluation, Example
from advgrpo.evaluation.saved_evaluation import Why
from advgrpo.evaluation.verdict import (
    change,
    multiple_comparisons,
    summarize,
    summarize_gates,
)
from advgrpo.records import Comparison, GateResult, TrainingRecord
from advgrpo.storage.files import write_bytes

PIXELATED_BELOW = 129
"""Images with a shorter side are enlarged without interpolation, and embedded without loss."""

WEBP_QUALITY = 88


@dataclass(frozen=True)
class RunFacts:
    """Content of a report besides the evaluation."""

    name: str
    settings: RunConfig
    created: str = ""
    """Date and time as text."""

    phases: Sequence[PhaseCost] = ()
    policy_updates: int | None = None
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Hashes, versions and locations of all inputs, by name."""

    gates: Sequence[GateResult] = ()
    """Results of the promotion gates."""

    training: TrainingRecord = field(default_factory=TrainingRecord)
    """Record of training, with alarms of the reward hacking check."""


@dataclass(frozen=True)
class _Row:
    """One row of the table of metrics."""

    comparison: Comparison
    label: str
    note: str
    base: tuple[str, str, str]
    trained: tuple[str, str, str]
    difference: tuple[str, str, str]
    change: str
    """Difference of the trained model from the base: better, worse, unclear or neither."""

    reference: str
    strip: str
    champion: tuple[str, str, str] | None
    difference_to_champion: tuple[str, str, str] | None
    change_to_champion: str


def write_report(
    path: str | Path, evaluation: Evaluation, history: History, facts: RunFacts
) -> None:
    """Write the report of a run.

    Args:
        path: Of the HTML file; local, or `s3://bucket/key`.
        evaluation: Metrics and examples.
        history: Metrics of training, by update.
        facts: Settings, cost and lineage.

    Raises:
        StorageError: If it cannot be written.
    """
    write_bytes(str(path), render_report(evaluation, history, facts).encode())


def render_report(evaluation: Evaluation, history: History, facts: RunFacts) -> str:
    """Render the report as HTML text."""
    # Prompts are untrusted text, hence autoescape. StrictUndefined makes a misspelled name an error
    # instead of an empty cell.
    environment = Environment(
        loader=PackageLoader("advgrpo.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": formatting.number,
        "data_uri": _data_uri,
    }
    report = evaluation.report
    rows = [_build_row(comparison) for comparison in report.comparisons]
    groups = {
        why: [example for example in evaluation.examples if example.why == why]
        # In the order of `Why`, which is that of the page.
        for why in get_args(Why)
    }
    config = facts.settings.evaluation
    price = None if config.price_per_hour is None else Price(config.price_per_hour, config.currency)
    return environment.get_template("report.html.jinja").render(
        facts=facts,
        report=report,
        verdict=summarize(report),
        promotion=summarize_gates(facts.gates),
        multiplicity=multiple_comparisons(report, config.confidence),
        missing={_missing_name(name): why for name, why in report.missing.items()},
        distance=report.comparison(report.distance),
        alignment=report.comparison(report.alignment),
        held_out=[r for r in rows if not r.comparison.trained_on and r.change != "neither"],
        trained_on=[r for r in rows if r.comparison.trained_on],
        statistics=[r for r in rows if not r.comparison.trained_on and r.change == "neither"],
        with_champion=any(row.champion is not None for row in rows),
        examples=groups,
        pixelated=_is_small(evaluation.examples),
        curves=training_curves(history, alignment=report.alignment),
        costs=cost_rows(facts.phases, price),
        cost_per_gain=cost_per_gain(report, facts.phases, price),
        with_money=price is not None,
        settings=facts.settings.to_yaml(),
        # The distance is then measured in the feature space that the reward was trained in.
        shares_backbone=facts.settings.discriminator.weights == config.distance.weights,
    )


def _build_row(comparison: Comparison) -> _Row:
    reference, champion = comparison.reference, comparison.champion
    to_champion = comparison.difference_to_champion
    neither = comparison.higher_is_better is None
    return _Row(
        comparison=comparison,
        label=formatting.label(comparison.metric),
        note="; ".join(
            filter(
                None, (formatting.note(comparison.metric), comparison.related, comparison.missing)
            )
        ),
        base=formatting.format_interval(comparison.base),
        trained=formatting.format_interval(comparison.trained),
        difference=formatting.format_interval(comparison.difference, signed=True),
        change="neither" if neither else change(comparison),
        reference="" if reference is None else formatting.number(reference),
        strip=interval_strip(comparison.base, comparison.trained, reference, champion),
        champion=None if champion is None else formatting.format_interval(champion),
        difference_to_champion=(
            None if to_champion is None else formatting.format_interval(to_champion, signed=True)
        ),
        change_to_champion="neither" if neither else change(comparison, to_champion),
    )


def _missing_name(missing: str) -> str:
    """Return the name of a missing metric; `champion` and families of metrics have no label."""
    return formatting.label(missing) if "." in missing else missing.capitalize()


def _is_small(examples: Sequence[Example]) -> bool:
    # Images of one run have the same size; without examples there is nothing to enlarge.
    return any(example.base.shape[-1] < PIXELATED_BELOW for example in examples)


def _data_uri(image: Float[Tensor, "3 height width"]) -> str:
    """Return an image as a data URI."""
    if image.shape[-1] < PIXELATED_BELOW:
        kind, data = "png", encode_png(image)
    else:
        # Photographs are much smaller as lossy WebP, and the page embeds all of its images.
        buffer = io.BytesIO()
        to_pil(image).save(buffer, format="WEBP", quality=WEBP_QUALITY)
        kind, data = "webp", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
