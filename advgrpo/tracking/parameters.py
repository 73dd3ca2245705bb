"""Settings as MLflow shows them: a flat list of names and texts."""

import json
from collections.abc import Mapping

from advgrpo.redaction import redact


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Give nested settings names with dots.

    Args:
        values: Settings; mappings among them are taken apart, other values become JSON.
        prefix: Put before each name.
    """
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found[prefix + name] = redact(text)
    return found
