"""By what a task's saved state is found again: its settings, its inputs, and its weights."""

from typing import TypeVar

from advgrpo.config import Weights
from advgrpo.config.base import Section
from advgrpo.config.locations import with_weights
from advgrpo.config.tasks import digest
from advgrpo.errors import WeightsError
from advgrpo.storage import scheme
from advgrpo.storage.weights_hash import weights_digest

S = TypeVar("S", bound=Section)


def cache_key(settings: Section, *inputs: str) -> str:
    """Name settings, what their weights hold, and what else a task depends on.

    Args:
        settings: A task's settings.
        inputs: Digests of the task's other inputs, in a fixed order.

    Returns:
        As `digest` does. Weights count by what they hold and not by where they lie: others at the
        same place give another name, and the same ones elsewhere the same name.

    Raises:
        StorageError: If weights cannot be read.
    """
    return digest(by_content(settings), *inputs)


def by_content(settings: S) -> S:
    """Put what weights hold in the place of where they lie.

    Weights of a hub stay: their commit says what they hold. So do those that are not there, which
    whoever needs them will say.

    Raises:
        StorageError: If weights cannot be read.
    """
    return with_weights(settings, _content)


def _content(weights: Weights) -> Weights:
    if scheme(weights.location) == "hub":
        return weights
    try:
        return Weights(location=f"content {weights_digest(weights)}")
    except WeightsError:
        return weights
