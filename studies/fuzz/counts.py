"""What a search came to, as libFuzzer counts it."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Explored:
    """What the search in one target came to."""

    target: str
    runs: int
    seconds: float
    edges: int
    """Edges of Python code that some input took, as libFuzzer's `cov` counts them."""

    features: int
    """Edges by how often they were taken, and comparisons by how near they came."""

    peak_mib: int
    finds: tuple[str, ...]
    """Inputs that broke the promise; the log, if the search itself failed."""


def counted(name: str, said: str, seconds: float, finds: tuple[str, ...]) -> Explored:
    """Read libFuzzer's own count of a search."""

    def last(pattern: str) -> int:
        return int((re.findall(pattern, said) or ["0"])[-1])

    return Explored(
        target=name,
        runs=last(r"number_of_executed_units: (\d+)") or last(r"(?m)^#(\d+)"),
        seconds=seconds,
        edges=last(r"\bcov: (\d+)"),
        features=last(r"\bft: (\d+)"),
        peak_mib=last(r"peak_rss_mb:\s*(\d+)"),
        finds=finds,
    )
