"""What the import hook checks annotations with: beartype, for all that it can check."""

from collections.abc import Callable
from typing import TypeVar

from beartype import beartype
from beartype.roar import BeartypeDecorHintPep673Exception

F = TypeVar("F", bound=Callable[..., object])


def check(function: F) -> F:
    """Check arguments and results on each call."""
    try:
        return beartype(function)
    except BeartypeDecorHintPep673Exception:
        # Methods are decorated one by one, and beartype takes `Self` within whole classes only.
        return function
