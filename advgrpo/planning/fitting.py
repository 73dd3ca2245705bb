"""Whether what a training needs fits into the memory that is free."""

from collections.abc import Iterable

from advgrpo.errors import ConfigError
from advgrpo.planning.parts import Part, total

_GIB = 2**30


def refuse_what_does_not_fit(parts: Iterable[Part], free: int, *, where: str, repair: str) -> None:
    """Refuse to start what would run out of memory later.

    Args:
        parts: What is needed, as far as it is known.
        free: Bytes that are there.
        where: Which memory, for the error.
        repair: Settings that save some.

    Raises:
        ConfigError: If the parts that are known are larger; names the largest.
    """
    known = list(parts)
    needed = total(known)
    if needed <= free:
        return
    largest = sorted(known, key=lambda part: part.bytes or 0, reverse=True)[:3]
    said = ", ".join(f"{part.name} {(part.bytes or 0) / _GIB:.2f} GiB" for part in largest)
    raise ConfigError(
        f"training needs about {needed / _GIB:.2f} GiB of {where}, where {free / _GIB:.2f} GiB are "
        f"free; the largest parts: {said}",
        repair=f"{repair}; or set training.memory_check=warn and try (`advgrpo plan` counts)",
    )
