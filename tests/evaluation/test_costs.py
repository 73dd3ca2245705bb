import pytest

from advgrpo.evaluation.costs import PhaseCost, Price, cost_per_gain, cost_rows
from tests.evaluation.test_verdict import report_of

PHASES = [
    PhaseCost("Training", 7200.0, images=1000, processes=4, on_gpu=True),
    PhaseCost("Evaluation", 1800.0, images=200, on_gpu=True),
]
PRICE = Price(2.5, "EUR")


def test_hours_of_all_processes_are_counted_and_priced() -> None:
    training, evaluation, together = cost_rows(PHASES, PRICE)

    assert (training.hours, training.money) == ("8 GPU-hours", "20.00 EUR")
    assert (evaluation.hours, evaluation.money) == ("0.5 GPU-hours", "1.25 EUR")
    assert (together.hours, together.money) == ("8.5 GPU-hours", "21.25 EUR")
    assert (together.time, together.images) == ("2 h 30 min", "1,200")


def test_without_a_price_there_is_no_money() -> None:
    assert {row.money for row in cost_rows(PHASES, None)} == {""}


def test_hours_of_gpus_and_cpus_are_not_added_up() -> None:
    phases = [*PHASES, PhaseCost("Reference images", 3600.0)]

    assert cost_rows(phases, None)[-1].hours == "8.5 GPU-hours, 1 CPU-hours"


def test_hours_of_cpus_are_not_priced_as_hours_of_gpus() -> None:
    phases = [*PHASES, PhaseCost("Reference images", 36000.0)]
    *_, on_cpu, together = cost_rows(phases, PRICE)
    distance, _ = cost_per_gain(report_of(distance=(20.0, 12.0)), phases, PRICE)

    assert (on_cpu.hours, on_cpu.money) == ("10 CPU-hours", "")
    assert (together.money, together.note) == (
        "21.25 EUR",
        "the cost is that of the GPU-hours alone",
    )
    assert "GPU- and CPU-hours, 0.53 EUR per percent" in distance


def test_without_gpus_the_price_is_that_of_a_process() -> None:
    *_, together = cost_rows([PhaseCost("Training", 7200.0, processes=2)], PRICE)

    assert (together.money, together.note) == ("10.00 EUR", "")


def test_an_unknown_time_is_marked_and_not_counted_as_zero() -> None:
    rows = cost_rows([*PHASES, PhaseCost("Reference images", None, note="an existing set")], PRICE)

    assert (rows[2].time, rows[2].money, rows[2].note) == ("", "", "an existing set")
    assert "time is unknown" in rows[-1].note


def test_a_gain_has_a_cost() -> None:
    distance, alignment = cost_per_gain(
        report_of(distance=(20.0, 12.0), alignment=(0.8, 0.85)), PHASES, PRICE
    )

    assert distance == (
        "Frechet distance: 0.212 GPU-hours, 0.53 EUR per percent of distance to the reference "
        "images; 40 gained in total."
    )
    assert "1.7 GPU-hours, 4.25 EUR per point (0.01) of Colour; 5 gained in total." in alignment


@pytest.mark.parametrize("trained", [0.8, 0.805, 0.7])
def test_a_gain_that_may_be_chance_has_no_cost(trained: float) -> None:
    _, alignment = cost_per_gain(report_of(alignment=(0.8, trained)), PHASES, PRICE)

    assert "no significant gain" in alignment


def test_without_a_known_time_there_is_no_cost() -> None:
    assert cost_per_gain(report_of(), [PhaseCost("Training", None)], PRICE) == []
