"""Labels of metrics, and numbers as text."""

import math

import numpy as np

from advgrpo.models.scorers.catalogue import find_facts
from advgrpo.records import Interval

MINUS = "\N{MINUS SIGN}"

_REWARD = "discriminator.reward"


def label(metric: str) -> str:
    """Return the label of a metric; without facts, its name spelled out."""
    if metric == _REWARD:
        return "Discriminator"
    facts = find_facts(metric)
    return facts.label if facts else _spell_out(metric)[1].capitalize()


def note(metric: str) -> str:
    """Return a short description of a metric."""
    if metric == _REWARD:
        return "the trained reward"
    facts = find_facts(metric)
    return facts.note if facts else f"by the {_spell_out(metric)[0]}"


def number(value: float, *, signed: bool = False) -> str:
    """Return a number with three significant digits."""
    if not math.isfinite(value):
        return str(value)
    if value != 0 and not 1e-5 <= abs(value) < 1e6:
        text = f"{value:.2e}"
    else:
        # Unlike :.3g, this uses no exponent between 1e-5 and 1e6.
        text = np.format_float_positional(value, precision=3, fractional=False, trim="-")
        if abs(value) >= 1000:
            text = f"{value:,.0f}"
    return _with_sign(text, signed=signed and value > 0)


def format_interval(interval: Interval, *, signed: bool = False) -> tuple[str, str, str]:
    """Return mean, low and high with as many digits as the interval's width supports."""
    width = interval.high - interval.low
    values = (interval.mean, interval.low, interval.high)
    # Two significant digits of the interval's width.
    decimals = 1 - math.floor(math.log10(width)) if width > 0 else 9
    if not 0 <= decimals <= 6:
        mean, low, high = (number(value, signed=signed) for value in values)
    else:
        mean, low, high = (
            _with_sign(f"{value:.{decimals}f}", signed=signed and value > 0) for value in values
        )
    return mean, low, high


def _spell_out(metric: str) -> tuple[str, str]:
    scorer, _, name = metric.replace("_", " ").partition(".")
    return scorer, name


def _with_sign(text: str, *, signed: bool) -> str:
    # A value that rounds to zero has no sign.
    if not text.strip("-0."):
        return text.removeprefix("-")
    return ("+" if signed else "") + text.replace("-", MINUS)
