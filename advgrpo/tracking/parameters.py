"""Nested settings as flat MLflow parameters."""

import json
from collections.abc import Mapping

from advgrpo.redaction import redact


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to dotted names.

    Args:
        values: Settings; mappings are flattened, other values become JSON.
        prefix: Prefix of each name.
    """
    parameters: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            parameters |= flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            parameters[prefix + name] = redact(text)
    return parameters
