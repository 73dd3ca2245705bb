from dataclasses import replace

import pytest

from advgrpo.evaluation.verdict import change, multiple_comparisons, summarize, summarize_gates
from advgrpo.records import Comparison, EvaluationReport, GateResult, Interval

DISTANCE, ALIGNMENT = "distance.frechet", "judge.colour"


def compared(
    metric: str,
    base: float,
    trained: float,
    *,
    width: float = 0.01,
    higher_is_better: bool | None = True,
    trained_on: bool = False,
    reference: float | None = None,
) -> Comparison:
    difference = trained - base
    return Comparison(
        metric=metric,
        base=Interval(base, base - width, base + width),
        trained=Interval(trained, trained - width, trained + width),
        difference=Interval(difference, difference - width, difference + width),
        higher_is_better=higher_is_better,
        trained_on=trained_on,
        reference=reference,
    )


def report_of(
    *others: Comparison,
    distance: tuple[float, float] = (20.0, 0.5),
    alignment: tuple[float, float] = (0.8, 0.8),
) -> EvaluationReport:
    comparisons = (
        compared(DISTANCE, *distance, higher_is_better=False, reference=0.1),
        compared(ALIGNMENT, *alignment),
        *others,
    )
    return EvaluationReport(comparisons, 100, alignment=ALIGNMENT, distance=DISTANCE)


@pytest.mark.parametrize(
    ("trained", "higher_is_better", "expected"),
    [
        (1.02, True, "better"),
        (1.02, False, "worse"),
        (0.98, True, "worse"),
        (0.98, False, "better"),
        (1.005, True, "unclear"),
        (0.5, None, "unclear"),
    ],
)
def test_a_change_counts_only_past_the_edge_of_its_interval(
    trained: float, higher_is_better: bool | None, expected: str
) -> None:
    assert change(compared("m.x", 1.0, trained, higher_is_better=higher_is_better)) == expected


@pytest.mark.parametrize(
    ("distance", "alignment", "tone", "word"),
    [
        ((20.0, 0.5), (0.8, 0.9), "good", "Better"),
        ((20.0, 0.5), (0.8, 0.8), "good", "without a significant loss"),
        ((20.0, 0.5), (0.8, 0.7), "mixed", "further from the prompts"),
        ((20.0, 20.0), (0.8, 0.9), "mixed", "not significantly"),
        ((20.0, 20.0), (0.8, 0.8), "mixed", "No significant change"),
        ((20.0, 30.0), (0.8, 0.8), "bad", "Worse"),
        ((20.0, 30.0), (0.8, 0.7), "bad", "Worse"),
    ],
)
def test_the_headline_weighs_distance_and_alignment(
    distance: tuple[float, float], alignment: tuple[float, float], tone: str, word: str
) -> None:
    verdict = summarize(report_of(distance=distance, alignment=alignment))

    assert verdict.tone == tone
    assert word in verdict.headline


def test_the_distance_is_given_with_its_ratio_and_that_of_the_references() -> None:
    sentence = summarize(report_of()).sentences[0]

    assert "20 before, 0.5 after, 40 times smaller" in sentence
    assert "0.1" in sentence


def test_a_small_alignment_change_may_be_chance() -> None:
    assert "may be chance" in summarize(report_of(alignment=(0.8, 0.805))).sentences[1]
    assert "may be chance" not in summarize(report_of(alignment=(0.8, 0.9))).sentences[1]


def test_an_alignment_that_never_changed_is_not_called_chance() -> None:
    perfect = Interval(1.0, 1.0, 1.0)
    alignment = replace(
        compared(ALIGNMENT, 1.0, 1.0),
        base=perfect,
        trained=perfect,
        difference=Interval(0.0, 0.0, 0.0),
    )
    report = report_of()
    report = replace(report, comparisons=(report.comparisons[0], alignment))

    assert "1 before and after" in summarize(report).sentences[1]


def test_a_rising_reward_with_falling_alignment_is_called_hacking() -> None:
    reward = compared("discriminator.reward", 0.0, 1.0, trained_on=True)

    hacked = summarize(report_of(reward, alignment=(0.8, 0.5)))
    sound = summarize(report_of(reward))

    assert hacked.tone == "bad"
    assert "hacking" in hacked.sentences[-1]
    assert not any("hacking" in sentence for sentence in sound.sentences)


def test_other_metrics_that_got_worse_are_listed() -> None:
    verdict = summarize(report_of(compared("pickscore.score", 0.8, 0.7)))

    assert "Worse by other metrics: PickScore." in verdict.sentences


def test_a_collapse_shows_against_the_diversity_of_the_reference_images() -> None:
    def verdict(trained: float) -> str:
        diversity = compared(
            "diversity.in_group", 3.0, trained, higher_is_better=None, reference=1.2
        )
        return " ".join(summarize(report_of(diversity)).sentences)

    assert "collapsing" in verdict(0.2)
    assert "collapsing" not in verdict(1.0)


def test_the_number_of_comparisons_is_given_with_the_number_expected_by_chance() -> None:
    others = [compared(f"m.x{number}", 1.0, 1.0) for number in range(18)]

    text = multiple_comparisons(report_of(*others), 0.95)

    assert "The report has 20 differences with 95 % intervals" in text
    assert "1 of them would be expected to exclude 0 by chance; 1 do" in text
    assert "at least 90 % confidence" in text


def test_comparisons_with_the_champion_count_as_well() -> None:
    report = report_of()
    against = replace(report.comparisons[0], difference_to_champion=Interval(-1.0, -2.0, -0.5))
    report = replace(report, comparisons=(against, *report.comparisons[1:]))

    assert multiple_comparisons(report, 0.95).startswith("The report has 3 differences")


def test_the_verdict_compares_with_the_champion() -> None:
    report = report_of()
    distance, alignment = (
        replace(c, champion=c.base, difference_to_champion=difference)
        for c, difference in zip(
            report.comparisons, (Interval(-1.0, -2.0, -0.5), Interval(0.0, -1.0, 1.0)), strict=True
        )
    )

    verdict = summarize(replace(report, comparisons=(distance, alignment), champion=3))

    sentence = next(s for s in verdict.sentences if "champion" in s)
    assert sentence.startswith("Against the champion, version 3: Frechet distance is better")
    assert "Colour is not significantly different" in sentence
    assert verdict.headline.startswith("Better: ")


def test_a_model_that_is_worse_than_the_champion_is_not_called_better() -> None:
    report = report_of()
    distance = replace(report.comparisons[0], difference_to_champion=Interval(1.0, 0.5, 2.0))
    report = replace(report, comparisons=(distance, *report.comparisons[1:]), champion=3)

    verdict = summarize(report)

    assert verdict.tone == "mixed"
    assert verdict.headline == "Better than the base model, but worse than the champion."


def test_the_verdict_says_why_the_champion_was_not_compared() -> None:
    verdict = summarize(replace(report_of(), missing={"champion": "its files were changed"}))

    assert any("its files were changed" in sentence for sentence in verdict.sentences)


def test_failed_gates_are_named() -> None:
    passed = GateResult("x at least base", "x", passed=True, reason="")
    failed = GateResult("y at least champion", "y", passed=False, reason="")

    assert "All gates passed" in summarize_gates([passed])
    assert summarize_gates([passed, failed]).endswith(
        "cannot become the champion: y at least champion."
    )
    assert "no gates" in summarize_gates([])
