"""The check that a training fits into the free memory."""

from collections.abc import Iterable

from advgrpo.errors import ConfigError
from advgrpo.planning.parts import Part, total

_GIB = 2**30


def check_fits(parts: Iterable[Part], free: int, *, where: str, repair: str) -> None:
    """Check that memory is sufficient before a training starts.

    Args:
        parts: Parts of the estimate; unknown ones are ignored.
        free: Free bytes.
        where: Kind of memory, for the error.
        repair: Settings that reduce it.

    Raises:
        ConfigError: If the known parts are larger; names the largest ones.
    """
    # Unknown parts count as nothing, so this never refuses what fits.
    known = list(parts)
    needed = total(known)
    if needed <= free:
        return
    largest = sorted(known, key=lambda part: part.bytes or 0, reverse=True)[:3]
    details = ", ".join(f"{part.name} {(part.bytes or 0) / _GIB:.2f} GiB" for part in largest)
    raise ConfigError(
        f"training needs about {needed / _GIB:.2f} GiB of {where}, where {free / _GIB:.2f} GiB are "
        f"free; the largest parts: {details}",
        repair=f"{repair}; or set training.memory_check=warn to start anyway (`advgrpo plan` shows "
        "the estimate)",
    )
