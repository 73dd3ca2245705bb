"""Adapters as the command line names them."""

import hashlib
import re
from pathlib import Path

from advgrpo.config import Weights
from advgrpo.errors import ConfigError
from advgrpo.models.policies.saved_adapter import adapter_folder
from advgrpo.storage import cache_folder, scheme
from advgrpo.tracking.address import require_tracking_uri

_HUB = re.compile(r"hub://(?P<name>[^/@]+/[^/@]+)(?:/(?P<subfolder>[^@]+))?(?:@(?P<commit>.+))?")


def adapter_place(text: str) -> Weights:
    """Read where an adapter lies.

    Args:
        text: A folder, an `s3://` location or `hub://owner/name/folder@COMMIT`.

    Raises:
        ConfigError: If a hub repository is not pinned to a commit, or the text is no location.
    """
    if scheme(text) != "hub":
        try:
            return Weights(location=text)
        except ValueError as error:
            raise ConfigError(
                f"{text!r} names no adapter",
                repair="give a folder, s3://bucket/folder, hub://owner/name/folder@COMMIT or "
                "models:/name@alias",
            ) from error
    match = _HUB.fullmatch(text)
    if match is None or match["commit"] is None:
        raise ConfigError(
            f"{text} is not pinned to a commit: its owner could change what is loaded",
            repair="write hub://owner/name/folder@COMMIT with the full hash of a commit, 40 "
            "characters",
        )
    return Weights(
        location=f"hub://{match['name']}",
        subfolder=match["subfolder"] or "",
        revision=match["commit"],
    )


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
    from advgrpo.registry.versions import registered_adapter  # noqa: PLC0415

    key = hashlib.sha256(f"{tracking_uri} {text}".encode()).hexdigest()
    target = cache_folder() / "registered" / key
    return registered_adapter(text, target, tracking_uri=tracking_uri)
