import re
from xml.etree import ElementTree

import pytest

from advgrpo.evaluation.charts import MOST_POINTS, WIDTH, Series, interval_strip, line_chart
from advgrpo.records import Interval


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in path.split())]
        for path in re.findall(r'points="([^"]*)"', svg)
    ]


def ticks_of(svg: str) -> list[str]:
    return re.findall(r'text-anchor="end">([^<]*)</text>', svg)[:-1]


def test_a_chart_is_well_formed_and_labelled() -> None:
    root = ElementTree.fromstring(line_chart([Series("a < b", [(0.0, 1.0), (10.0, 2.0)])]))

    assert root.attrib["aria-label"] == "a < b over updates"


def test_higher_values_are_drawn_higher_and_later_updates_further_right() -> None:
    ((first, second),) = points_of(line_chart([Series("x", [(0.0, 1.0), (10.0, 2.0)])]))

    assert first[0] < second[0] <= WIDTH
    assert first[1] > second[1]


def test_round_values_enclose_the_curve() -> None:
    svg = line_chart([Series("x", [(0.0, 0.13), (10.0, 0.87)])])

    assert ticks_of(svg) == ["0", "0.2", "0.4", "0.6", "0.8", "1"]


def test_a_logarithmic_scale_shows_magnitudes() -> None:
    points = [(0.0, 100.0), (5.0, 10.0), (10.0, 1.0)]
    ((top, middle, bottom),) = points_of(line_chart([Series("x", points)], logarithmic=True))

    assert middle[1] - top[1] == pytest.approx(bottom[1] - middle[1], abs=0.2)


def test_values_at_zero_are_not_scaled_by_their_logarithm() -> None:
    assert points_of(line_chart([Series("x", [(0.0, 0.0), (1.0, 5.0)])], logarithmic=True))


@pytest.mark.parametrize("points", [[(3.0, 0.5)], [(0.0, 2.0), (9.0, 2.0)]])
def test_a_single_point_and_a_constant_are_drawn(points: list[tuple[float, float]]) -> None:
    ((first, *_),) = points_of(line_chart([Series("x", points)]))

    assert 0 < first[1] < 168


def test_a_long_curve_is_thinned_but_keeps_its_last_value() -> None:
    points = [(float(x), float(x % 7)) for x in range(5000)]
    (path,) = points_of(line_chart([Series("x", points)]))

    assert len(path) <= MOST_POINTS + 1
    assert path[-1][0] == pytest.approx(WIDTH - 8, abs=0.1)


def test_a_strip_has_both_intervals_and_the_reference_on_one_scale() -> None:
    strip = interval_strip(Interval(1.0, 0.5, 1.5), Interval(3.0, 2.5, 3.5), 3.5)
    circles = [float(x) for x in re.findall(r'cx="([^"]*)"', strip)]
    reference = float(re.findall(r'class="reference" x1="([^"]*)"', strip)[0])

    assert circles[0] < circles[1] < reference
    assert 'class="reference"' not in interval_strip(
        Interval(1.0, 1.0, 1.0), Interval(1.0, 1.0, 1.0), None
    )
