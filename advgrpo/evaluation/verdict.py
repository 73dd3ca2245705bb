"""What an evaluation says, in words."""

from dataclasses import dataclass
from typing import Literal

from advgrpo.evaluation.comparing import DIVERSITY
from advgrpo.evaluation.wording import aligned, label, note, number
from advgrpo.records import Comparison, EvaluationReport

Change = Literal["better", "worse", "unclear"]
Tone = Literal["good", "mixed", "bad"]

_HEADLINES: dict[tuple[Change, Change], tuple[Tone, str]] = {
    ("better", "better"): ("good", "Better: nearer to the reference images and to its prompts."),
    ("better", "unclear"): (
        "good",
        "Better: nearer to the reference images, with no measurable loss of prompt alignment.",
    ),
    ("better", "worse"): (
        "mixed",
        "Mixed: nearer to the reference images, but further from its prompts.",
    ),
    ("unclear", "better"): (
        "mixed",
        "Mixed: nearer to its prompts, but not measurably to the reference images.",
    ),
    ("unclear", "unclear"): ("mixed", "No measurable change."),
    ("unclear", "worse"): ("bad", "Worse: further from its prompts, and no nearer to the images."),
    ("worse", "better"): ("mixed", "Mixed: nearer to its prompts, but further from the images."),
    ("worse", "unclear"): ("bad", "Worse: further from the reference images."),
    ("worse", "worse"): ("bad", "Worse: further from the reference images and from its prompts."),
}


@dataclass(frozen=True)
class Verdict:
    """What a reader should know first."""

    tone: Tone
    headline: str
    sentences: tuple[str, ...]


def change(comparison: Comparison) -> Change:
    """Tell whether a measure became better, by the edge of its interval."""
    if comparison.higher_is_better is None:
        return "unclear"
    rose, fell = comparison.difference.low > 0, comparison.difference.high < 0
    if not rose and not fell:
        return "unclear"
    return "better" if rose == comparison.higher_is_better else "worse"


def judge(report: EvaluationReport) -> Verdict:
    """Judge an evaluation by what the reward was not trained on."""
    distance = report.comparison(report.distance)
    alignment = report.comparison(report.alignment)
    tone, headline = _HEADLINES[change(distance), change(alignment)]
    sentences = [_distance(distance), _alignment(alignment)]
    named = {report.distance, report.alignment}
    others = [c for c in report.comparisons if c.measure not in named and not c.trained_on]
    if worse := [label(c.measure) for c in others if change(c) == "worse"]:
        sentences.append(f"Worse by other measures: {', '.join(worse)}.")
    sentences += [_alike(c) for c in others if c.measure == DIVERSITY and _is_collapsed(c)]
    if _looks_hacked(report):
        tone = "bad"
        sentences.append(
            "The trained reward rose while measures that it was not trained on got worse: that is "
            "what reward hacking looks like. Look at the images."
        )
    return Verdict(tone, headline, tuple(sentences))


def _looks_hacked(report: EvaluationReport) -> bool:
    rewards = [c for c in report.comparisons if c.trained_on]
    witnesses = (report.comparison(report.distance), report.comparison(report.alignment))
    return any(change(c) == "better" for c in rewards) and any(
        change(c) == "worse" for c in witnesses if not c.trained_on
    )


def _is_collapsed(diversity: Comparison) -> bool:
    reference = diversity.reference
    return reference is not None and diversity.trained.high < reference / 2


def _alike(diversity: Comparison) -> str:
    assert diversity.reference is not None
    return (
        "Images of one prompt are much more alike than its reference images are (diversity "
        f"{number(diversity.trained.mean)} against {number(diversity.reference)}): the model may "
        "be collapsing."
    )


def _distance(comparison: Comparison) -> str:
    before, after = comparison.base.mean, comparison.trained.mean
    name = f"{label(comparison.measure)} to reference images of prompts that were not trained on"
    text = f"{name}: {number(before)} before, {number(after)} after"
    if after > 0 and before / after >= 1.1:
        text += f", {_times(before / after)} times smaller"
    if comparison.reference is not None:
        text += (
            f"; half of the reference images against the other half: {number(comparison.reference)}"
        )
    return text + "."


def _alignment(comparison: Comparison) -> str:
    name = f"Prompt alignment ({label(comparison.measure)}, {note(comparison.measure)})"
    difference = comparison.difference
    if difference.low == difference.high == 0:
        return f"{name}: {number(comparison.base.mean)}, before and after, for every prompt."
    mean, low, high = aligned(difference, signed=True)
    chance = ", which may be chance" if change(comparison) == "unclear" else ""
    return (
        f"{name}: {number(comparison.base.mean)} before, {number(comparison.trained.mean)} after; "
        f"a difference of {mean}, between {low} and {high}{chance}."
    )


def _times(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
