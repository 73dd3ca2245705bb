"""Promotion gates: conditions on an evaluation; needs no torch."""

import math
from collections.abc import Iterable

from advgrpo.config.promotion import Gate
from advgrpo.records import Comparison, EvaluationReport, GateResult, Interval


def check_gates(gates: Iterable[Gate], report: EvaluationReport) -> tuple[GateResult, ...]:
    """Check each gate on the unfavourable edge of its metric's interval.

    A gate fails if its metric is missing, not finite or trained on by the run's reward.

    Args:
        gates: The conditions.
        report: Metrics of the adapter.

    Returns:
        One result per gate, in their order.
    """
    return tuple(_check(gate, report) for gate in gates)


def all_gates_pass(results: Iterable[GateResult]) -> bool:
    """Return whether there is a result and none failed: an empty list proves nothing."""
    passed = [result.passed for result in results]
    return bool(passed) and all(passed)


def _check(gate: Gate, report: EvaluationReport) -> GateResult:
    stand_ins = {"distance": report.distance, "alignment": report.alignment}
    metric = stand_ins.get(gate.metric, gate.metric)
    text = f"{metric} {gate.comparison.replace('_', ' ')} {gate.against}{_bound(gate)}"
    passed, reason = _check_metric(gate, metric, report)
    return GateResult(gate=text, metric=metric, passed=passed, reason=reason)


def _check_metric(gate: Gate, metric: str, report: EvaluationReport) -> tuple[bool, str]:
    try:
        comparison = report.comparison(metric)
    # A missing metric must fail its gate: otherwise leaving out a scorer would promote the adapter.
    except KeyError:
        why = report.missing.get(metric)
        return False, f"{metric} is missing" + (f": {why}" if why else "")
    if comparison.trained_on:
        return False, f"the run's reward was trained on {metric}, so an increase proves nothing"
    wanted = "at_least" if comparison.higher_is_better else "at_most"
    # A gate in the wrong direction would pass an adapter for getting worse.
    if comparison.higher_is_better is not None and gate.comparison != wanted:
        return False, (
            f"{metric} is better when {'higher' if comparison.higher_is_better else 'lower'}: "
            f"set the gate's comparison to {wanted}"
        )
    # A champion that could not be evaluated must not count as no champion.
    if gate.against == "champion" and "champion" in report.missing:
        return False, f"there is a champion, but no comparison: {report.missing['champion']}"
    if gate.against == "champion" and report.champion is None:
        return gate.without_champion == "pass", "there is no champion yet"
    return _check_edge(gate, comparison)


def _check_edge(gate: Gate, comparison: Comparison) -> tuple[bool, str]:
    to_base = gate.against == "base"
    other = comparison.base if to_base else comparison.champion
    difference = comparison.difference if to_base else comparison.difference_to_champion
    if other is None or difference is None:
        return False, f"{comparison.metric} was not compared with the {gate.against}"
    # An infinite edge would pass, and NaN would fail without saying why.
    if not all(map(_is_valid, (other, difference, comparison.trained))):
        return False, (
            f"{comparison.metric} has no finite value and interval "
            f"({gate.against} {_format(other)}, trained {_format(comparison.trained)}, difference "
            f"{_format(difference)})"
        )
    # Dividing by a negative mean would reverse the bound.
    if gate.relative and other.mean <= 0:
        return False, (
            f"the {gate.against}'s {comparison.metric} is {other.mean:.4g}, and a relative bound "
            "needs a positive value: set relative to false"
        )
    at_least = gate.comparison == "at_least"
    edge = difference.low if at_least else difference.high
    # The bound is relative to the mean, not to the interval of the other model.
    value = edge / other.mean if gate.relative else edge
    reason = (
        f"{gate.against} {other.mean:.4g}, trained {comparison.trained.mean:.4g}: the difference "
        f"is {_format(difference)}, whose {'lower' if at_least else 'upper'} edge is "
        f"{_amount(value, gate.relative)}; the gate requires {gate.comparison.replace('_', ' ')} "
        f"{_amount(gate.bound, gate.relative)}"
    )
    return (value >= gate.bound if at_least else value <= gate.bound), reason


def _is_valid(interval: Interval) -> bool:
    values = (interval.low, interval.mean, interval.high)
    return all(map(math.isfinite, values)) and interval.low <= interval.high


def _format(interval: Interval) -> str:
    return f"{interval.mean:.4g} ({interval.low:.4g} to {interval.high:.4g})"


def _amount(value: float, relative: bool) -> str:
    return f"{100 * value:.4g} %" if relative else f"{value:.4g}"


def _bound(gate: Gate) -> str:
    if not gate.bound:
        return ""
    return f" {'+' if gate.bound > 0 else '-'} {_amount(abs(gate.bound), gate.relative)}"
