"""SVG charts that take their colours from the page, so that they follow light and dark mode."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from advgrpo.evaluation.formatting import MINUS
from advgrpo.records import Interval

WIDTH, HEIGHT = 320.0, 168.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 8.0, 8.0, 22.0
MOST_POINTS = 400

STRIP_WIDTH, STRIP_LINE, STRIP_MARGIN = 170.0, 10.0, 6.0


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    points: Sequence[tuple[float, float]]
    """Update and value, in the order of updates; at least one."""


def line_chart(series: Sequence[Series], *, logarithmic: bool = False) -> Markup:
    """Draw curves over updates.

    Args:
        series: At most three, which get the page's colours `curve-1` to `curve-3`.
        logarithmic: Use a logarithmic scale, if all values are above 0.
    """
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    # A distance of 0 has no logarithm.
    logarithmic = logarithmic and min(ys) > 0
    ticks = _decades(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys))
    # Ticks may lie outside of the values, and decades inside of them.
    low, high = min(ys + ticks), max(ys + ticks)
    across = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    # The y axis of SVG points down.
    up = _Scale(low, high, HEIGHT - BOTTOM, TOP, logarithmic=logarithmic)
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(t):.1f}" y2="{up(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{up(t) + 3.5:.1f}" text-anchor="end">'
        f"{_tick_label(t)}</text>"
        for t in ticks
    ]
    parts += [
        f'<text class="tick" x="{across(x):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
        f"{x:g}</text>"
        for x, anchor in ((min(xs), "start"), (max(xs), "end"))
        # A single update has one label instead of two on top of each other.
        if min(xs) < max(xs) or anchor == "start"
    ]
    # Numbered by position, because the page's style sheet has the colours.
    for number, one in enumerate(series, start=1):
        points = _thin(one.points)
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        x, y = points[-1]
        parts.append(
            f'<polyline class="curve curve-{number}" points="{path}"/>'
            f'<circle class="dot curve-{number}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.6"/>'
        )
    names = ", ".join(one.name for one in series)
    return _svg(WIDTH, HEIGHT, "chart", f"{names} over updates", parts)


def interval_strip(
    base: Interval, trained: Interval, reference: float | None, champion: Interval | None = None
) -> Markup:
    """Draw intervals on one scale, and the value of the reference images as a line.

    Each model has a different mark, so that colour is not needed to distinguish them.
    """
    lines = {"base": base, "trained": trained}
    if champion is not None:
        lines["champion"] = champion
    values = [edge for one in lines.values() for edge in (one.low, one.high)]
    values += [] if reference is None else [reference]
    # Each strip has its own scale, as metrics have different units.
    across = _Scale(min(values), max(values), STRIP_MARGIN, STRIP_WIDTH - STRIP_MARGIN)
    height = STRIP_LINE * (len(lines) + 1)
    parts = []
    if reference is not None:
        x = across(reference)
        parts.append(
            f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="{height - 2:g}"/>'
        )
    for number, (kind, interval) in enumerate(lines.items(), start=1):
        y = STRIP_LINE * number
        parts.append(
            f'<line class="{kind}" x1="{across(interval.low):.1f}" '
            f'x2="{across(interval.high):.1f}" y1="{y:g}" y2="{y:g}"/>'
            + _mark(kind, across(interval.mean), y)
        )
    # Screen readers get the order, which sighted readers see by the marks.
    title = f"{', '.join(lines)}, from top to bottom"
    return _svg(STRIP_WIDTH, height, "strip", title, parts)


def _mark(kind: str, x: float, y: float) -> str:
    """Draw a hollow circle for the base model, a solid one for the trained, else a diamond."""
    if kind in {"base", "trained"}:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:g}" r="3.4"/>'
    corners = ((x, y - 4.4), (x + 4.4, y), (x, y + 4.4), (x - 4.4, y))
    points = " ".join(f"{across:.1f},{down:.1f}" for across, down in corners)
    return f'<polygon class="{kind}" points="{points}"/>'


class _Scale:
    """A map from values to positions; if there is only one value, to the middle."""

    def __init__(
        self, low: float, high: float, start: float, end: float, *, logarithmic: bool = False
    ) -> None:
        self._logarithmic = logarithmic
        self._low, self._high = self._value(low), self._value(high)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        if self._high == self._low:
            return (self._start + self._end) / 2
        share = (self._value(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def _value(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value


def _svg(width: float, height: float, kind: str, title: str, parts: Sequence[str]) -> Markup:
    return Markup(  # noqa: S704 - only numbers, and an escaped title
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return two to six round values that enclose a range."""
    if low == high:
        return [low]
    step = _round_step((high - low) / 4)
    # The tolerance avoids an additional tick if rounding moves an edge past its own tick.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _round_step(step: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(step))
    # The tolerance is for the rounding of `10.0 ** n`.
    return next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= step * 0.999)


def _decades(low: float, high: float) -> list[float]:
    """Return round values within a range of magnitudes."""
    # The sparsest of 1, 1-3 and 1-2-5 ticks per decade that gives at least three.
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [s * 10.0**e for e in exponents for s in steps if low <= s * 10.0**e <= high]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 5)]
    return _ticks(low, high)


def _tick_label(value: float) -> str:
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Drop points beyond the resolution of a screen; the last one stays."""
    # The last point is the value of the legend and of the dot, so it must not be dropped.
    every = math.ceil(len(points) / MOST_POINTS)
    return [*points[:-1:every], points[-1]]
