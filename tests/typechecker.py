"""Type checker of the import hook: beartype, where it supports the annotations."""

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
        # The hook decorates single methods, and beartype supports `Self` in whole classes only.
        return function
