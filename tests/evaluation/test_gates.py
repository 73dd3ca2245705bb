import math
from dataclasses import replace

import pytest

from advgrpo.config import Gate, resolve
from advgrpo.errors import ConfigError
from advgrpo.evaluation.gates import all_gates_pass, check_gates
from advgrpo.records import Comparison, EvaluationReport, GateResult, Interval


def comparison(metric: str, base: float, difference: Interval, **others: object) -> Comparison:
    trained = base + difference.mean
    return Comparison(
        **{
            "metric": metric,
            "base": Interval(base, base - 1, base + 1),
            "trained": Interval(trained, trained - 1, trained + 1),
            "difference": difference,
            "higher_is_better": True,
            "trained_on": False,
            **others,
        }
    )


def report(*comparisons: Comparison, champion: int | None = None) -> EvaluationReport:
    return EvaluationReport(
        comparisons=comparisons,
        images=8,
        alignment="judge.score",
        distance="distance.frechet",
        champion=champion,
    )


SCORE = comparison("judge.score", 0.5, Interval(0.02, -0.01, 0.05))


def gate(metric: str = "judge.score", **others: object) -> Gate:
    return Gate.model_validate(
        {"metric": metric, "comparison": "at_least", "bound": -0.01, **others}
    )


def check(one: Gate, about: EvaluationReport) -> GateResult:
    (result,) = check_gates([one], about)
    return result


@pytest.mark.parametrize(("bound", "passed"), [(-0.02, True), (-0.01, True), (0.0, False)])
def test_the_edge_decides_and_not_the_mean(bound: float, passed: bool) -> None:
    assert check(gate(bound=bound), report(SCORE)).passed is passed


def test_at_most_checks_the_upper_edge() -> None:
    distance = comparison(
        "distance.frechet", 40.0, Interval(-10.0, -20.0, -1.0), higher_is_better=False
    )
    nearer = gate("distance.frechet", comparison="at_most", bound=-1)
    assert check(nearer, report(distance)).passed
    assert not check(nearer.model_copy(update={"bound": -2.0}), report(distance)).passed


def test_a_relative_bound_is_a_share_of_the_others_mean() -> None:
    distance = comparison(
        "distance.frechet", 40.0, Interval(-10.0, -20.0, -2.0), higher_is_better=False
    )
    share = gate("distance", comparison="at_most", bound=-0.05, relative=True)
    result = check(share, report(distance))
    assert result.passed
    assert result.gate == "distance.frechet at most base - 5 %"
    assert "upper edge is -5 %" in result.reason
    assert not check(share.model_copy(update={"bound": -0.06}), report(distance)).passed


@pytest.mark.parametrize("mean", [0.0, -3.0])
def test_a_relative_bound_needs_a_positive_mean(mean: float) -> None:
    result = check(
        gate(relative=True, bound=-1),
        report(comparison("judge.score", mean, Interval(9.0, 8.0, 10.0))),
    )
    assert not result.passed
    assert "a relative bound needs a positive value" in result.reason


def test_a_failed_gate_gives_the_reason_with_numbers() -> None:
    result = check(gate("alignment", bound=0.0), report(SCORE))
    assert result == GateResult(
        gate="judge.score at least base",
        metric="judge.score",
        passed=False,
        reason="base 0.5, trained 0.52: the difference is 0.02 (-0.01 to 0.05), whose lower edge "
        "is -0.01; the gate requires at least 0",
    )


def test_a_metric_that_is_missing_fails() -> None:
    result = check(gate("clip.score"), report(SCORE))
    assert (result.passed, result.reason) == (False, "clip.score is missing")


@pytest.mark.parametrize(
    "broken",
    [
        {"difference": Interval(math.nan, math.nan, math.nan)},
        {"difference": Interval(0.1, 0.1, math.inf)},
        {"difference": Interval(0.1, 0.2, 0.1)},
        {"base": Interval(math.nan, 0.0, 0.0)},
        {"trained": Interval(math.inf, 0.0, 0.0)},
    ],
)
def test_a_metric_that_is_not_finite_fails(broken: dict[str, Interval]) -> None:
    result = check(gate(bound=-100), report(replace(SCORE, **broken)))
    assert not result.passed
    assert "no finite value and interval" in result.reason


def test_a_metric_that_the_reward_was_trained_on_fails() -> None:
    result = check(gate(bound=-100), report(replace(SCORE, trained_on=True)))
    assert not result.passed
    assert "trained on judge.score" in result.reason


def test_a_gate_in_the_wrong_direction_fails() -> None:
    result = check(gate(comparison="at_most", bound=100), report(SCORE))
    assert not result.passed
    assert "set the gate's comparison to at_least" in result.reason


def test_without_a_champion_its_gate_passes_as_configured() -> None:
    first = check(gate(against="champion"), report(SCORE))
    assert (first.passed, first.reason) == (True, "there is no champion yet")
    assert not check(gate(against="champion", without_champion="fail"), report(SCORE)).passed


def test_a_missing_metric_fails_with_the_reason() -> None:
    lacking = replace(
        report(SCORE), missing={"clip.score": "no weights", "champion": "it has another base"}
    )
    result = check(gate("clip.score"), lacking)
    assert (result.passed, result.reason) == (False, "clip.score is missing: no weights")
    result = check(gate(against="champion", bound=-9), lacking)
    assert not result.passed
    assert result.reason == "there is a champion, but no comparison: it has another base"


def test_a_champion_without_a_comparison_fails_its_gates() -> None:
    result = check(gate(against="champion"), report(SCORE, champion=3))
    assert not result.passed
    assert "was not compared with the champion" in result.reason


def test_the_champion_is_compared_by_its_own_difference() -> None:
    measured = replace(
        SCORE,
        champion=Interval(0.6, 0.5, 0.7),
        difference_to_champion=Interval(-0.08, -0.1, -0.06),
    )
    assert check(gate(bound=-0.01), report(measured, champion=3)).passed
    result = check(gate(bound=-0.01, against="champion"), report(measured, champion=3))
    assert not result.passed
    assert result.reason.startswith("champion 0.6, trained 0.52")


def test_no_gates_are_not_passed() -> None:
    assert not all_gates_pass(())
    assert all_gates_pass(check_gates([gate()], report(SCORE)))
    assert not all_gates_pass(check_gates([gate(), gate(bound=1)], report(SCORE)))


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("pickscore.score", "the reward optimizes this metric"),
        ("discriminator.reward", "the reward optimizes this metric"),
        ("clip.score", "will not be measured"),
        ("pocket_judge", "will not be measured"),
    ],
)
def test_a_gate_that_cannot_be_checked_is_refused_with_the_settings(metric: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve("pocket", [f"promotion.gates.0.metric={metric}"])


def test_a_bound_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"promotion\.gates\.0\.bound"):
        resolve("pocket", ["promotion.gates.0.bound=.nan"])


def test_a_gate_on_an_alignment_that_is_rewarded_is_refused() -> None:
    scorers = "[{type: pickscore, weights: {location: x}}]"
    with pytest.raises(ConfigError, match=r"evaluation\.alignment=pickscore\.score"):
        resolve("pocket", [f"evaluation.scorers={scorers}", "evaluation.alignment=pickscore.score"])


def test_the_pocket_preset_has_gates_for_distance_and_alignment() -> None:
    gates = resolve("pocket").promotion.gates
    assert [(g.metric, g.against, g.comparison) for g in gates] == [
        ("distance", "base", "at_most"),
        ("alignment", "base", "at_least"),
        ("distance", "champion", "at_most"),
        ("alignment", "champion", "at_least"),
    ]
