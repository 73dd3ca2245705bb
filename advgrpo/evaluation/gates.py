"""Whether an evaluation meets the conditions of promotion; needs no torch."""

import math
from collections.abc import Iterable

from advgrpo.config import Gate
from advgrpo.records import Comparison, EvaluationReport, GateResult, Interval


def check_gates(gates: Iterable[Gate], report: EvaluationReport) -> tuple[GateResult, ...]:
    """Judge each gate on the unfavourable edge of the interval that it is about.

    A gate fails, in words, on what is missing, not finite or trained on by the run's reward.

    Args:
        gates: The conditions.
        report: What the adapter was measured to be.

    Returns:
        One result per gate, in their order.
    """
    return tuple(_check(gate, report) for gate in gates)


def passed_all(results: Iterable[GateResult]) -> bool:
    """Tell whether there is a result and none failed: nothing to fail is no proof."""
    verdicts = [result.passed for result in results]
    return bool(verdicts) and all(verdicts)


def _check(gate: Gate, report: EvaluationReport) -> GateResult:
    stand_ins = {"distance": report.distance, "alignment": report.alignment}
    metric = stand_ins.get(gate.metric, gate.metric)
    words = f"{metric} {gate.comparison.replace('_', ' ')} {gate.against}{_bound(gate)}"
    passed, reason = _judged(gate, metric, report)
    return GateResult(gate=words, metric=metric, passed=passed, reason=reason)


def _judged(gate: Gate, metric: str, report: EvaluationReport) -> tuple[bool, str]:
    try:
        comparison = report.comparison(metric)
    except KeyError:
        why = report.missing.get(metric)
        return False, f"{metric} was not measured" + (f": {why}" if why else "")
    if comparison.trained_on:
        return False, f"the run's reward was trained on {metric}, which proves nothing"
    wanted = "at_least" if comparison.higher_is_better else "at_most"
    if comparison.higher_is_better is not None and gate.comparison != wanted:
        return False, (
            f"{metric} is better when {'higher' if comparison.higher_is_better else 'lower'}: "
            f"a gate on it is spelled {wanted}"
        )
    if gate.against == "champion" and "champion" in report.missing:
        return False, f"there is a champion, but no comparison: {report.missing['champion']}"
    if gate.against == "champion" and report.champion is None:
        return gate.without_champion == "pass", "there is no champion yet"
    return _on_the_edge(gate, comparison)


def _on_the_edge(gate: Gate, comparison: Comparison) -> tuple[bool, str]:
    to_base = gate.against == "base"
    other = comparison.base if to_base else comparison.champion
    difference = comparison.difference if to_base else comparison.difference_to_champion
    if other is None or difference is None:
        return False, f"{comparison.metric} was not compared with the {gate.against}"
    if not (_is_sound(other) and _is_sound(difference) and _is_sound(comparison.trained)):
        return False, (
            f"{comparison.metric} has no finite value and interval "
            f"({gate.against} {_shown(other)}, trained {_shown(comparison.trained)}, difference "
            f"{_shown(difference)})"
        )
    if gate.relative and other.mean <= 0:
        return False, (
            f"the {gate.against}'s {comparison.metric} is {other.mean:.4g}, of which there is no "
            "share: use a gate that is not relative"
        )
    at_least = gate.comparison == "at_least"
    edge = difference.low if at_least else difference.high
    figure = edge / other.mean if gate.relative else edge
    reason = (
        f"{gate.against} {other.mean:.4g}, trained {comparison.trained.mean:.4g}: the difference "
        f"is {_shown(difference)}, whose {'lower' if at_least else 'upper'} edge is "
        f"{_amount(figure, gate.relative)}; the gate asks for {gate.comparison.replace('_', ' ')} "
        f"{_amount(gate.bound, gate.relative)}"
    )
    return (figure >= gate.bound if at_least else figure <= gate.bound), reason


def _is_sound(interval: Interval) -> bool:
    figures = (interval.low, interval.mean, interval.high)
    return all(math.isfinite(figure) for figure in figures) and interval.low <= interval.high


def _shown(interval: Interval) -> str:
    return f"{interval.mean:.4g} ({interval.low:.4g} to {interval.high:.4g})"


def _amount(figure: float, relative: bool) -> str:
    return f"{100 * figure:.4g} %" if relative else f"{figure:.4g}"


def _bound(gate: Gate) -> str:
    if not gate.bound:
        return ""
    return f" {'+' if gate.bound > 0 else '-'} {_amount(abs(gate.bound), gate.relative)}"
