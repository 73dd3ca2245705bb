"""Parts of an estimate, in bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Part:
    """A part of memory or storage."""

    name: str
    bytes: int | None
    """None if unknown."""

    how: str
    """Description of the calculation."""

    is_transient: bool = False
    """Whether it is freed before another such part is allocated."""


def total(parts: Iterable[Part]) -> int:
    """Return the sum of the known parts, and of the transient ones only the largest."""
    known = list(parts)
    # Transient parts never exist at the same time.
    permanent = sum(part.bytes or 0 for part in known if not part.is_transient)
    return permanent + max((part.bytes or 0 for part in known if part.is_transient), default=0)


def unknown(parts: Iterable[Part]) -> list[str]:
    """Return the names of the unknown parts."""
    return [part.name for part in parts if part.bytes is None]
