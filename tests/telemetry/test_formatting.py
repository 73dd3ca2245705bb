import pytest

from advgrpo.telemetry.formatting import format_duration, format_table, markdown_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-0.3, "0.0 s"),
        (3.14, "3.1 s"),
        (59.4, "59 s"),
        (59.7, "1 min 00 s"),
        (143.0, "2 min 23 s"),
        (7325.0, "2 h 02 min"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_columns_are_aligned_without_trailing_spaces() -> None:
    rows = [("name", "size", "note"), ("a", "10", ""), ("longer", "7", "x")]
    lines = ["name    size  note", "a         10", "longer     7  x"]
    assert format_table(rows, right=[1]) == lines


def test_a_markdown_table_has_a_head() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
