"""Cache keys, which name a task's saved state by its settings, inputs and weights."""

from typing import TypeVar

from advgrpo.config.base import Section, Weights
from advgrpo.config.locations import with_weights
from advgrpo.config.tasks import digest
from advgrpo.errors import WeightsError
from advgrpo.storage.locations import scheme
from advgrpo.storage.weights_hash import weights_digest

S = TypeVar("S", bound=Section)


def cache_key(settings: Section, *inputs: str) -> str:
    """Return the digest of settings, of the content of their weights, and of other inputs.

    Args:
        settings: A task's settings.
        inputs: Digests of the task's other inputs, in a fixed order.

    Returns:
        A digest as of `digest`. Weights count by content, not by location: other weights at the
        same location change the key, and moved weights do not.

    Raises:
        StorageError: If weights cannot be read.
    """
    return digest(by_content(settings), *inputs)


def by_content(settings: S) -> S:
    """Return settings with the digests of weights in place of their locations.

    Weights of a hub stay, because their commit identifies the content. Missing weights stay, too:
    loading them will fail with a better message.

    Raises:
        StorageError: If weights cannot be read.
    """
    return with_weights(settings, _content)


def _content(weights: Weights) -> Weights:
    if scheme(weights.location) == "hub":
        return weights
    try:
        # Subfolder and revision are left out on purpose: only the content counts.
        return Weights(location=f"content {weights_digest(weights)}")
    except WeightsError:
        return weights
