"""The verdict of an evaluation, as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from advgrpo.evaluation.comparison import DIVERSITY
from advgrpo.evaluation.formatting import format_interval, label, note, number
from advgrpo.records import Comparison, EvaluationReport, GateResult, Interval

Change = Literal["better", "worse", "unclear"]
Tone = Literal["good", "mixed", "bad"]

# By the change of the distance first, then that of the alignment.
_HEADLINES: dict[tuple[Change, Change], tuple[Tone, str]] = {
    ("better", "better"): ("good", "Better: closer to the reference images and to the prompts."),
    ("better", "unclear"): (
        "good",
        "Better: closer to the reference images, without a significant loss of prompt alignment.",
    ),
    ("better", "worse"): (
        "mixed",
        "Mixed: closer to the reference images, but further from the prompts.",
    ),
    ("unclear", "better"): (
        "mixed",
        "Mixed: closer to the prompts, but not significantly to the reference images.",
    ),
    ("unclear", "unclear"): ("mixed", "No significant change."),
    ("unclear", "worse"): (
        "bad",
        "Worse: further from the prompts, and not closer to the reference images.",
    ),
    ("worse", "better"): (
        "mixed",
        "Mixed: closer to the prompts, but further from the reference images.",
    ),
    ("worse", "unclear"): ("bad", "Worse: further from the reference images."),
    ("worse", "worse"): ("bad", "Worse: further from the reference images and from the prompts."),
}


_TO_CHAMPION: dict[Change, str] = {
    "better": "is better",
    "worse": "is worse",
    "unclear": "is not significantly different",
}


@dataclass(frozen=True)
class Verdict:
    """Headline and summary of an evaluation."""

    tone: Tone
    headline: str
    sentences: tuple[str, ...]


def change(comparison: Comparison, difference: Interval | None = None) -> Change:
    """Return whether a metric improved, by the edge of its interval.

    Args:
        comparison: The metric.
        difference: The difference to use; that to the base model if None.
    """
    # Such a metric describes the images without judging them.
    if comparison.higher_is_better is None:
        return "unclear"
    difference = comparison.difference if difference is None else difference
    # An edge at exactly 0 does not count as a change.
    rose, fell = difference.low > 0, difference.high < 0
    if not rose and not fell:
        return "unclear"
    return "better" if rose == comparison.higher_is_better else "worse"


def summarize(report: EvaluationReport) -> Verdict:
    """Summarize an evaluation by metrics that the reward was not trained on."""
    distance = report.comparison(report.distance)
    alignment = report.comparison(report.alignment)
    tone, headline = _HEADLINES[change(distance), change(alignment)]
    # Only a good headline is corrected; a mixed or bad one does not recommend the adapter anyway.
    if tone == "good" and any(_loses_to_champion(c) for c in (distance, alignment)):
        tone, headline = "mixed", "Better than the base model, but worse than the champion."
    sentences = [_distance(distance), _alignment(alignment)]
    sentences += _against_champion(report, distance, alignment)
    named = {report.distance, report.alignment}
    # Metrics of the reward are excluded: they can rise without better images.
    others = [c for c in report.comparisons if c.metric not in named and not c.trained_on]
    if worse := [label(c.metric) for c in others if change(c) == "worse"]:
        sentences.append(f"Worse by other metrics: {', '.join(worse)}.")
    sentences += [
        _describe_collapse(c) for c in others if c.metric == DIVERSITY and _is_collapsed(c)
    ]
    # Last, because signs of reward hacking outweigh every other finding.
    if _looks_hacked(report):
        tone = "bad"
        sentences.append(
            "The trained reward increased while metrics that it was not trained on got worse, "
            "which indicates reward hacking. Inspect the images."
        )
    return Verdict(tone, headline, tuple(sentences))


def multiple_comparisons(report: EvaluationReport, confidence: float) -> str:
    """Return how many intervals of a report are expected to exclude 0 by chance.

    The expected number is the sum of the intervals' error rates, which holds for any dependence
    between metrics. The metrics of the verdict are fixed in the settings beforehand; Bonferroni's
    inequality bounds the error of both their intervals together.
    """
    differences = [c.difference for c in report.comparisons]
    differences += [
        c.difference_to_champion for c in report.comparisons if c.difference_to_champion is not None
    ]
    outside = sum(difference.low > 0 or difference.high < 0 for difference in differences)
    error = 1 - confidence
    return (
        f"The report has {len(differences)} differences with {100 * confidence:g} % intervals. If "
        f"nothing had changed, {number(error * len(differences))} of them would be expected to "
        f"exclude 0 by chance; {outside} do. The two metrics of the verdict were fixed "
        f"beforehand: both of their intervals hold with at least {100 * (1 - 2 * error):g} % "
        "confidence (Bonferroni). Treat any other single metric as a hint, not as proof."
    )


def summarize_gates(gates: Sequence[GateResult]) -> str:
    """Return whether an adapter may become the champion, and if not, which gates it failed."""
    if not gates:
        return "There are no gates (promotion.gates), so it becomes the champion only by override."
    failed = [gate for gate in gates if not gate.passed]
    if not failed:
        return "All gates passed: it may become the champion."
    names = "; ".join(gate.gate for gate in failed)
    return f"{len(failed)} of {len(gates)} gates failed, so it cannot become the champion: {names}."


def _looks_hacked(report: EvaluationReport) -> bool:
    rewards = [c for c in report.comparisons if c.trained_on]
    # The metrics of the verdict only: among all others, some get worse by chance.
    witnesses = (report.comparison(report.distance), report.comparison(report.alignment))
    return any(change(c) == "better" for c in rewards) and any(
        change(c) == "worse" for c in witnesses if not c.trained_on
    )


def _loses_to_champion(comparison: Comparison) -> bool:
    difference = comparison.difference_to_champion
    return difference is not None and change(comparison, difference) == "worse"


def _against_champion(
    report: EvaluationReport, distance: Comparison, alignment: Comparison
) -> list[str]:
    # An absent comparison must not read like an absent champion.
    if reason := report.missing.get("champion"):
        return [f"There is a champion, but it was not compared with: {reason}."]
    if report.champion is None:
        return []
    changes = []
    for comparison in (distance, alignment):
        difference = comparison.difference_to_champion
        if difference is not None:
            mean, low, high = format_interval(difference, signed=True)
            verb = _TO_CHAMPION[change(comparison, difference)]
            changes.append(f"{label(comparison.metric)} {verb} ({mean}, between {low} and {high})")
    return [f"Against the champion, version {report.champion}: {', '.join(changes)}."]


def _is_collapsed(diversity: Comparison) -> bool:
    # Even the upper edge of the interval must be low: small samples do not count as a collapse.
    reference = diversity.reference
    return reference is not None and diversity.trained.high < reference / 2


def _describe_collapse(diversity: Comparison) -> str:
    assert diversity.reference is not None
    return (
        "Images of one prompt are much more similar than its reference images (diversity "
        f"{number(diversity.trained.mean)} against {number(diversity.reference)}): the model may "
        "be collapsing."
    )


def _distance(comparison: Comparison) -> str:
    before, after = comparison.base.mean, comparison.trained.mean
    name = f"{label(comparison.metric)} to reference images of prompts that were not trained on"
    text = f"{name}: {number(before)} before, {number(after)} after"
    # Ratios below 1.05 would be shown as 1.0.
    if after > 0 and before / after >= 1.1:
        text += f", {_times(before / after)} times smaller"
    if comparison.reference is not None:
        text += (
            f"; half of the reference images against the other half: {number(comparison.reference)}"
        )
    return text + "."


def _alignment(comparison: Comparison) -> str:
    name = f"Prompt alignment ({label(comparison.metric)}, {note(comparison.metric)})"
    difference = comparison.difference
    # No prompt changed: an interval of width 0 is certain, not chance.
    if difference.low == difference.high == 0:
        return f"{name}: {number(comparison.base.mean)} before and after, for every prompt."
    mean, low, high = format_interval(difference, signed=True)
    chance = ", which may be chance" if change(comparison) == "unclear" else ""
    return (
        f"{name}: {number(comparison.base.mean)} before, {number(comparison.trained.mean)} after; "
        f"a difference of {mean}, between {low} and {high}{chance}."
    )


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
