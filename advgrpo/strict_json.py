"""JSON from files that other programs wrote, that people edited or that a power cut damaged."""

import json
import re
from typing import Any

# Strings, so that a key is not found within a value; the second group makes it a key.
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?')


class RepeatedKeyError(ValueError):
    """An object has a key twice, of which Python's parser keeps the last value."""


def load_json(text: str | bytes) -> Any:  # noqa: ANN401 - a tree of JSON values
    """Parse JSON; every fault in it raises `ValueError`.

    Raises:
        RepeatedKeyError: If an object has a key twice. Names the key and its lines.
        ValueError: If the text is not JSON in UTF-8 or is nested too deeply.
    """
    try:
        # `json` also accepts NaN and Infinity, which are not JSON.
        return json.loads(text, object_pairs_hook=_unique)
    except RepeatedKeyError:
        _refuse_repeated_key(
            text if isinstance(text, str) else text.decode(json.detect_encoding(text))
        )
        raise
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


def unique_keys(text: str | bytes) -> str | bytes:
    """Return JSON for another parser, after checking that no key occurs twice.

    Raises:
        ValueError: As `load_json`.
    """
    load_json(text)
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [key for key, _ in pairs]
        repeated = next(key for key in names if names.count(key) > 1)
        raise RepeatedKeyError(f"the key {repeated!r} occurs twice")
    return value


def _refuse_repeated_key(text: str) -> None:
    """Raise the error again with the lines of the key, if the text has several."""

    def compare(pairs: list[tuple[str, Any]]) -> None:
        first: dict[str, int] = {}
        for key, _ in pairs:
            place, _, name = key.partition(":")
            line = text.count("\n", 0, int(place)) + 1
            if name in first:
                lines = f"lines {first[name]} and {line}" if first[name] != line else f"line {line}"
                raise RepeatedKeyError(f"the key {name!r} occurs twice, in {lines}")
            first[name] = line

    if "\n" in text.strip():
        # The parser reports no positions, so each key carries its own.
        json.loads(
            _STRING.sub(lambda m: f'"{m.start()}:{m[1]}":' if m[2] else m[0], text),
            object_pairs_hook=compare,
        )
