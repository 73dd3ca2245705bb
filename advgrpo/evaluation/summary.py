"""Metrics of an evaluation by name, as MLflow records them."""

from collections.abc import Iterable

from advgrpo.records import EvaluationReport, GateResult


def summary(report: EvaluationReport, gates: Iterable[GateResult] = ()) -> dict[str, float]:
    """Return the metrics of an evaluation by name.

    Args:
        report: The evaluation.
        gates: Results of the gates.

    Returns:
        `distance_base`, `distance_trained`, `alignment_base`, `alignment_trained` and the interval
        of the alignment's difference; the numbers of passed and failed gates; then means and
        difference of each metric, and the same for the champion if there is one.
    """
    distance = report.comparison(report.distance)
    alignment = report.comparison(report.alignment)
    metrics = {
        "distance_base": distance.base.mean,
        "distance_trained": distance.trained.mean,
        "alignment_base": alignment.base.mean,
        "alignment_trained": alignment.trained.mean,
        "alignment_difference_low": alignment.difference.low,
        "alignment_difference_high": alignment.difference.high,
    }
    passed = [gate.passed for gate in gates]
    metrics |= {"gate/passed": float(sum(passed)), "gate/failed": float(passed.count(False))}
    if report.champion is not None:
        metrics["champion_version"] = float(report.champion)
    for comparison in report.comparisons:
        metrics |= {
            f"base/{comparison.metric}": comparison.base.mean,
            f"trained/{comparison.metric}": comparison.trained.mean,
            f"difference/{comparison.metric}": comparison.difference.mean,
            f"difference_low/{comparison.metric}": comparison.difference.low,
            f"difference_high/{comparison.metric}": comparison.difference.high,
        }
        if comparison.champion is None or comparison.difference_to_champion is None:
            continue
        difference = comparison.difference_to_champion
        metrics |= {
            f"champion/{comparison.metric}": comparison.champion.mean,
            f"difference_to_champion/{comparison.metric}": difference.mean,
            f"difference_to_champion_low/{comparison.metric}": difference.low,
            f"difference_to_champion_high/{comparison.metric}": difference.high,
        }
    return metrics
