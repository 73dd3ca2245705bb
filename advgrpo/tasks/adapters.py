"""Locations of adapters, as given on the command line."""

import hashlib
import re
from pathlib import Path

from pydantic import ValidationError

from advgrpo.config.base import Weights
from advgrpo.errors import ConfigError
from advgrpo.models.policies.saved_adapter import adapter_folder
from advgrpo.storage.cache import cache_folder
from advgrpo.tracking.address import require_tracking_uri

_HUB = re.compile(r"hub://(?P<name>[^/@]+/[^/@]+)(?:/(?P<subfolder>[^@]+))?(?:@(?P<commit>.+))?")


def parse_adapter(text: str) -> Weights:
    """Parse the location of an adapter.

    Args:
        text: A folder, an `s3://` location or `hub://owner/name/folder@COMMIT`.

    Raises:
        ConfigError: If the text is not a location, or a hub repository is not pinned to a commit.
    """
    match = _HUB.fullmatch(text)
    try:
        if match is None:
            return Weights(location=text)
        return Weights(
            location=f"hub://{match['name']}",
            subfolder=match["subfolder"] or "",
            revision=match["commit"],
        )
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError(
            f"{text!r} does not name an adapter: {reason}",
            repair="use a folder, s3://bucket/folder, hub://owner/name/folder@COMMIT with the "
            "full hash of a commit, or models:/name@alias",
        ) from error


def fetch_adapter(text: str) -> Path:
    """Return the local folder of an adapter, after downloading it if it is remote.

    Args:
        text: A location for `parse_adapter`, or a registered model, `models:/name@alias`.

    Raises:
        ConfigError: If a hub repository is not pinned, or the adapter is a registered model and
            `MLFLOW_TRACKING_URI` is not set.
        WeightsError: If there is no adapter at the location.
        TrackingError: If the version does not exist, or its files have changed.
        StorageError: If the adapter cannot be downloaded.
    """
    if not text.startswith("models:/"):
        return adapter_folder(parse_adapter(text))
    tracking_uri = require_tracking_uri(f"{text} is a registered model")
    # MLflow takes seconds to load.
    from advgrpo.registry.versions import download_adapter  # noqa: PLC0415

    # The server is part of the key: two servers may have models of the same name.
    key = hashlib.sha256(f"{tracking_uri} {text}".encode()).hexdigest()
    target = cache_folder() / "registered" / key
    return download_adapter(text, target, tracking_uri=tracking_uri)
