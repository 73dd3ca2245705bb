"""Statistics of a search, parsed from libFuzzer's output."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Explored:
    """Statistics of the search in one target."""

    target: str
    runs: int
    seconds: float
    edges: int
    """Covered edges of Python code, libFuzzer's `cov`."""

    features: int
    """Edges with hit counts, and comparisons with distances, libFuzzer's `ft`."""

    peak_mib: int
    finds: tuple[str, ...]
    """Failing inputs; the log if the search itself crashed."""


def parse_counts(name: str, log: str, seconds: float, finds: tuple[str, ...]) -> Explored:
    """Parse the log of a search."""

    def last(pattern: str) -> int:
        return int((re.findall(pattern, log) or ["0"])[-1])

    return Explored(
        target=name,
        runs=last(r"number_of_executed_units: (\d+)") or last(r"(?m)^#(\d+)"),
        seconds=seconds,
        edges=last(r"\bcov: (\d+)"),
        features=last(r"\bft: (\d+)"),
        peak_mib=last(r"peak_rss_mb:\s*(\d+)"),
        finds=finds,
    )
