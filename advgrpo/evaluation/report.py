"""The report: one HTML page that needs no network, no script and no other file."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import yaml
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from advgrpo.config import RunConfig
from advgrpo.data.images import encode_png, to_pil
from advgrpo.evaluation import formatting
from advgrpo.evaluation.charts import interval_strip
from advgrpo.evaluation.costs import PhaseCost, Price, cost_per_gain, cost_rows
from advgrpo.evaluation.curves import History, training_curves
from advgrpo.evaluation.results import Evaluation, Example
from advgrpo.evaluation.saved_evaluation import Why
from advgrpo.evaluation.verdict import change, judge, judge_gates, multiple_comparisons
from advgrpo.records import Comparison, GateResult, TrainingRecord
from advgrpo.storage import write_bytes

PIXELATED_BELOW = 129
"""Images with a shorter side are enlarged pixel by pixel, and kept without loss."""

WEBP_QUALITY = 88


@dataclass(frozen=True)
class RunFacts:
    """What a report tells of a run besides its evaluation."""

    name: str
    settings: RunConfig
    created: str = ""
    """Date and time, in words."""

    phases: Sequence[PhaseCost] = ()
    policy_updates: int | None = None
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Where all came from: hashes, versions, locations, by what they are of."""

    gates: Sequence[GateResult] = ()
    """How the conditions of promotion were judged."""

    training: TrainingRecord = field(default_factory=TrainingRecord)
    """How training went, with what the watch for reward hacking found."""


@dataclass(frozen=True)
class _Row:
    """One line of the table of measures."""

    comparison: Comparison
    label: str
    note: str
    base: tuple[str, str, str]
    trained: tuple[str, str, str]
    difference: tuple[str, str, str]
    change: str
    """How the trained model differs from the base: better, worse, unclear or neither."""

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
        evaluation: Measures and examples.
        history: Measures of training, by update.
        facts: Settings, cost and lineage.

    Raises:
        StorageError: If it cannot be written.
    """
    write_bytes(str(path), render_report(evaluation, history, facts).encode())


def render_report(evaluation: Evaluation, history: History, facts: RunFacts) -> str:
    """Render the report as HTML text."""
    environment = Environment(
        loader=PackageLoader("advgrpo.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": formatting.number,
        "embedded": _embedded,
    }
    report = evaluation.report
    rows = [_row(comparison) for comparison in report.comparisons]
    groups = {
        why: [example for example in evaluation.examples if example.why == why]
        for why in get_args(Why)
    }
    evaluated = facts.settings.evaluation
    price = evaluated.price_per_hour
    priced = None if price is None else Price(price, evaluated.currency)
    return environment.get_template("report.html.jinja").render(
        facts=facts,
        report=report,
        verdict=judge(report),
        promotion=judge_gates(facts.gates),
        multiplicity=multiple_comparisons(report, evaluated.confidence),
        missing={_named(name): why for name, why in report.missing.items()},
        distance=report.comparison(report.distance),
        alignment=report.comparison(report.alignment),
        held_out=[r for r in rows if not r.comparison.trained_on and r.change != "neither"],
        trained_on=[r for r in rows if r.comparison.trained_on],
        statistics=[r for r in rows if not r.comparison.trained_on and r.change == "neither"],
        with_champion=any(row.champion is not None for row in rows),
        examples=groups,
        pixelated=_is_small(evaluation.examples),
        curves=training_curves(history, alignment=report.alignment),
        costs=cost_rows(facts.phases, priced),
        cost_per_gain=cost_per_gain(report, facts.phases, priced),
        with_money=priced is not None,
        settings=yaml.safe_dump(
            facts.settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        ),
        shares_backbone=facts.settings.discriminator.weights == evaluated.distance.weights,
    )


def _row(comparison: Comparison) -> _Row:
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
        base=formatting.aligned(comparison.base),
        trained=formatting.aligned(comparison.trained),
        difference=formatting.aligned(comparison.difference, signed=True),
        change="neither" if neither else change(comparison),
        reference="" if reference is None else formatting.number(reference),
        strip=interval_strip(comparison.base, comparison.trained, reference, champion),
        champion=None if champion is None else formatting.aligned(champion),
        difference_to_champion=(
            None if to_champion is None else formatting.aligned(to_champion, signed=True)
        ),
        change_to_champion="neither" if neither else change(comparison, to_champion),
    )


def _named(missing: str) -> str:
    """Name what was not measured; `champion` and a family of measures have no label."""
    return formatting.label(missing) if "." in missing else missing.capitalize()


def _is_small(examples: Sequence[Example]) -> bool:
    return any(example.base.shape[-1] < PIXELATED_BELOW for example in examples)


def _embedded(image: Float[Tensor, "3 height width"]) -> str:
    """Turn an image into a URI that holds it."""
    if image.shape[-1] < PIXELATED_BELOW:
        kind, data = "png", encode_png(image)
    else:
        buffer = io.BytesIO()
        to_pil(image).save(buffer, format="WEBP", quality=WEBP_QUALITY)
        kind, data = "webp", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
