"""The batches of an evaluation, whose composition never depends on the process that measures them.

The last bits of an image depend on the batch in which it is sampled. So whole batches are shared
between processes and cached, never single images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from advgrpo.evaluation.batch_cache import BatchCache, concatenate
from advgrpo.evaluation.results import Champion, MeasuredImages
from advgrpo.evaluation.saved_evaluation import Side


@dataclass(frozen=True)
class BatchKey:
    """One batch of one side of an evaluation."""

    side: Side
    folder: str
    """Folder of its side in the cache."""

    number: int
    images: int

    @property
    def name(self) -> str:
        """Name in the cache."""
        return f"{self.folder}/{self.number:05d}"


def list_batches(
    sampled_sizes: Sequence[int], reference_sizes: Sequence[int], champion: Champion | None
) -> list[BatchKey]:
    """List all batches of an evaluation, side by side, the champion's last.

    Args:
        sampled_sizes: Number of images of each batch of each model.
        reference_sizes: Number of images of each batch of reference images.
        champion: If there is one, its batches are included.
    """
    sides: dict[Side, str] = {"base": "base", "trained": "trained"}
    if champion is not None:
        sides["champion"] = f"champion-{champion.digest[:16]}"
    # Processes refer to batches by their position in this list, so its order must be deterministic.
    references = enumerate(reference_sizes)
    return [BatchKey("reference", "reference", number, size) for number, size in references] + [
        BatchKey(side, folder, number, size)
        for side, folder in sides.items()
        for number, size in enumerate(sampled_sizes)
    ]


def missing_batches(batches: Iterable[BatchKey], cache: BatchCache) -> list[BatchKey]:
    """Return the batches that are not in the cache."""
    return [batch for batch in batches if cache.read(batch.name) is None]


def count_sampled_images(batches: Iterable[BatchKey]) -> int:
    """Count the images that are sampled rather than read."""
    return sum(batch.images for batch in batches if batch.side != "reference")


def load_sides(batches: Iterable[BatchKey], cache: BatchCache) -> dict[Side, MeasuredImages]:
    """Concatenate the cached batches of each side.

    Raises:
        KeyError: If a batch is not in the cache.
    """
    sides: dict[Side, list[MeasuredImages]] = {}
    for batch in batches:
        measured = cache.read(batch.name)
        if measured is None:
            raise KeyError(batch.name)
        sides.setdefault(batch.side, []).append(measured)
    return {side: concatenate(of_side) for side, of_side in sides.items()}
