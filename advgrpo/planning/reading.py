"""Configurations of a run's models, read without their weights."""

from collections.abc import Mapping
from typing import Any

from advgrpo.config.base import Weights
from advgrpo.errors import StorageError
from advgrpo.planning.published import PUBLISHED
from advgrpo.storage.fetch import local_file
from advgrpo.storage.locations import join, scheme
from advgrpo.strict_json import load_json_object


def configuration(weights: Weights, part: str = "") -> Mapping[str, Any] | None:
    """Read a model's configuration.

    Args:
        weights: Location of the model.
        part: Folder of a pipeline's component; empty if the location is the model itself.

    Returns:
        Content of its `config.json`, for a model on a hub from `PUBLISHED`; None if unknown.
    """
    folder = "/".join(name for name in (weights.subfolder.strip("/"), part) if name)
    location = weights.location.rstrip("/")
    if scheme(location) == "hub":
        # A hub may need a login for the file, and a plan must not.
        return PUBLISHED.get(location, {}).get(folder)
    try:
        file = local_file(join(location, folder, "config.json"))
        return load_json_object(file.read_text(encoding="utf-8"))
    except (StorageError, OSError, ValueError):
        # Not an error of the plan: loading the model reports a missing or damaged file.
        return None
