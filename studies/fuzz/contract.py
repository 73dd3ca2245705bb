"""The contract of parsers of external data: accept an input, or raise an error with a repair."""

from collections.abc import Callable
from pathlib import Path

from advgrpo.errors import AdvGrpoError

LONGEST_SECONDS = 20
"""Time limit for an input of a few KiB; generous, because the machine may be busy."""

MOST_MIB = 2048
"""Memory limit of the process, with torch loaded."""


def rejects(attempt: Callable[[], object], *named: str | Path) -> bool:
    """Return whether an input is rejected with an `AdvGrpoError`. Other exceptions propagate.

    Args:
        attempt: Parses the input.
        named: What the error must name: the file or setting at fault.

    Raises:
        AssertionError: If the error has no repair, or does not name the cause.
    """
    try:
        attempt()
    except AdvGrpoError as error:
        rejection = error
    else:
        return False
    assert rejection.message
    assert rejection.repair, f"no repair: {rejection!r}"
    missing = [name for name in named if str(name) not in rejection.message]
    assert not missing, f"{rejection.message!r} does not name {missing}"
    return True
