"""Adapters as the command line names them."""

import hashlib
import re
from pathlib import Path

from pydantic import ValidationError

from advgrpo.config import Weights
from advgrpo.errors import ConfigError
from advgrpo.models.policies.saved_adapter import adapter_folder
from advgrpo.storage import cache_folder
from advgrpo.tracking.address import require_tracking_uri

_HUB = re.compile(r"hub://(?P<name>[^/@]+/[^/@]+)(?:/(?P<subfolder>[^@]+))?(?:@(?P<commit>.+))?")


def adapter_place(text: str) -> Weights:
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
            repair="give a folder, s3://bucket/folder, hub://owner/name/folder@COMMIT with the "
            "full hash of a commit, or models:/name@alias",
        ) from error


def named_adapter(text: str) -> Path:
    """Bring an adapter to the local disk.

    Args:
        text: What `adapter_place` reads, or a registered one, `models:/name@alias`.

    Raises:
        ConfigError: If a hub repository is not pinned, or a registered adapter is asked for and no
            MLflow server is named.
        WeightsError: If there is no adapter.
        TrackingError: If there is no such version, or its files are not those that were registered.
        StorageError: If it cannot be fetched.
    """
    if not text.startswith("models:/"):
        return adapter_folder(adapter_place(text))
    tracking_uri = require_tracking_uri(f"{text} is a registered model")
    # MLflow takes seconds to load.
    from advgrpo.registry.versions import download_adapter  # noqa: PLC0415

    key = hashlib.sha256(f"{tracking_uri} {text}".encode()).hexdigest()
    target = cache_folder() / "registered" / key
    return download_adapter(text, target, tracking_uri=tracking_uri)
