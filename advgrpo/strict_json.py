"""JSON that others wrote, or that a power cut damaged."""

import json
from typing import Any


def parsed(text: str | bytes) -> Any:  # noqa: ANN401 - a tree of JSON values
    """Read JSON; whatever is wrong with it is a `ValueError`.

    Raises:
        ValueError: If it is no JSON in UTF-8, or is nested deeper than Python goes.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parsed_object(text: str | bytes) -> dict[str, Any]:
    """Read JSON that must be an object.

    Raises:
        ValueError: If it is not.
    """
    found = parsed(text)
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    return found
