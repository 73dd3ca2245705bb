"""What every reader of what others write promises, and what counts as broken."""

from collections.abc import Callable
from pathlib import Path

from advgrpo.errors import AdvGrpoError

LONGEST_SECONDS = 20
"""An input of a few KiB that takes longer is a find; the machine may be busy with other things."""

MOST_MIB = 2048
"""So is one by which the process, with torch loaded, comes to hold more."""


def refused(attempt: Callable[[], object], *named: str | Path) -> bool:
    """Tell whether an input is refused in words; any other exception is a fault of ours.

    Args:
        attempt: Reads the input.
        named: What a refusal must name: the file or setting at fault.

    Raises:
        AssertionError: If a refusal lacks the repair or a name.
    """
    try:
        attempt()
    except AdvGrpoError as error:
        said = error
    else:
        return False
    assert said.message
    assert said.repair, f"no repair: {said!r}"
    missing = [name for name in named if str(name) not in said.message]
    assert not missing, f"{said.message!r} does not name {missing}"
    return True
