"""JSON from files that other programs wrote or that a power cut damaged."""

import json
from typing import Any


def load_json(text: str | bytes) -> Any:  # noqa: ANN401 - a tree of JSON values
    """Parse JSON; every fault in it raises `ValueError`.

    Raises:
        ValueError: If the text is not JSON in UTF-8 or is nested too deeply.
    """
    try:
        # `json` also accepts NaN and Infinity, which are not JSON.
        return json.loads(text)
    # Callers treat a ValueError as a damaged file; a RecursionError would end them.
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load_json_object(text: str | bytes) -> dict[str, Any]:
    """Parse JSON that must be an object.

    Raises:
        ValueError: If it is not.
    """
    value = load_json(text)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value
