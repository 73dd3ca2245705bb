"""A part of what a run takes, in bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Part:
    """A part of memory or storage."""

    name: str
    bytes: int | None
    """None if it is not known."""

    how: str
    """How it was counted."""

    is_passing: bool = False
    """Whether it is freed before another passing part is needed."""


def total(parts: Iterable[Part]) -> int:
    """Add what is known; of the passing parts only the largest."""
    known = list(parts)
    lasting = sum(part.bytes or 0 for part in known if not part.is_passing)
    return lasting + max((part.bytes or 0 for part in known if part.is_passing), default=0)


def unknown(parts: Iterable[Part]) -> list[str]:
    """Name the parts that are not known."""
    return [part.name for part in parts if part.bytes is None]
