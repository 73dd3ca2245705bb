import pytest

from advgrpo.evaluation.formatting import format_interval, label, note, number
from advgrpo.records import Interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (22.184, "22.2"),
        (0.00012345, "0.000123"),
        (-1.5, "\N{MINUS SIGN}1.5"),
        (12345.6, "12,346"),
        (3.2e-7, "3.20e\N{MINUS SIGN}07"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_plus_sign_is_optional() -> None:
    assert number(0.5, signed=True) == "+0.5"
    assert number(-0.5, signed=True) == "\N{MINUS SIGN}0.5"
    assert number(0.0, signed=True) == "0"


def test_an_interval_is_written_to_the_digit_that_its_width_supports() -> None:
    assert format_interval(Interval(0.89134, 0.88251, 0.90012)) == ("0.891", "0.883", "0.900")
    assert format_interval(Interval(22.18, 20.1, 24.3)) == ("22.2", "20.1", "24.3")


def test_zero_has_no_sign() -> None:
    assert format_interval(Interval(-0.004, -0.08, 0.08), signed=True)[0] == "0.00"


def test_an_interval_without_width_is_still_written() -> None:
    assert format_interval(Interval(0.25, 0.25, 0.25), signed=True) == ("+0.25",) * 3


def test_a_metric_without_facts_is_spelled_out() -> None:
    assert label("pocket_judge.attribute_accuracy") == "Attribute accuracy"
    assert note("pocket_judge.attribute_accuracy") == "by the pocket judge"
