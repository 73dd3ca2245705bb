"""An evaluation in parts: batches whose make-up never depends on who measures them.

The last bits of an image depend on the batch that it is drawn in. So whole batches are shared out
and taken up again, never images.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from advgrpo.evaluation.batch_cache import Kept, joined
from advgrpo.evaluation.images import Drawer, Library
from advgrpo.evaluation.metrics import MeasuredImages, Measurer

Side = Literal["reference", "base", "trained", "champion"]


@dataclass(frozen=True)
class Part:
    """One batch of one side of an evaluation."""

    side: Side
    folder: str
    """Where what is kept of its side lies."""

    number: int
    images: int

    @property
    def name(self) -> str:
        """Name of what is kept of it."""
        return f"{self.folder}/{self.number:05d}"


@dataclass(frozen=True)
class Champion:
    """The adapter that a trained one is to replace."""

    version: int
    """Of the registered model."""

    digest: str
    """SHA-256 of its adapter: what is kept of one champion is of no use for the next."""

    adapter: Callable[[], AbstractContextManager[None]]
    """Within it, the policy draws with the champion's adapter."""


def list_parts(drawer: Drawer, library: Library, champion: Champion | None) -> list[Part]:
    """List all batches of an evaluation, side by side, the champion's last."""
    sides: dict[Side, str] = {"base": "base", "trained": "trained"}
    if champion is not None:
        sides["champion"] = f"champion-{champion.digest[:16]}"
    references = enumerate(library.sizes)
    return [Part("reference", "reference", number, size) for number, size in references] + [
        Part(side, folder, number, size)
        for side, folder in sides.items()
        for number, size in enumerate(drawer.sizes)
    ]


def missing_parts(parts: Iterable[Part], kept: Kept) -> list[Part]:
    """Find what is not measured yet."""
    return [part for part in parts if kept.read(part.name) is None]


def sampled_images(parts: Iterable[Part]) -> int:
    """Count images that are sampled, not read."""
    return sum(part.images for part in parts if part.side != "reference")


def measure_parts(
    parts: Iterable[Part],
    drawer: Drawer,
    library: Library,
    measurer: Measurer,
    *,
    champion: Champion | None,
) -> Iterator[tuple[Part, MeasuredImages]]:
    """Draw and measure batches one by one; their images are gone before the next.

    Args:
        parts: Taken one after the other; those of one side should stand together.
        drawer: Draws the images.
        library: Reads the reference images.
        measurer: Measures both.
        champion: Whose batches `parts` may name.

    Raises:
        NonFiniteError: If a measure is NaN or infinite.
        WeightsError: If the champion's adapter does not fit the policy.
    """
    for side, of_side in groupby(parts, key=lambda part: part.side):
        source = library if side == "reference" else drawer
        with drawn_as(side, drawer, champion):
            for part in of_side:
                yield part, measurer.measure([source.batch(part.number)])


def drawn_as(side: Side, drawer: Drawer, champion: Champion | None) -> AbstractContextManager[None]:
    """Within it, the policy draws as one side of the evaluation."""
    if side == "base":
        return drawer.policy.base_policy()
    if side == "champion" and champion is not None:
        return champion.adapter()
    return nullcontext()


def gathered(parts: Iterable[Part], kept: Kept) -> dict[Side, MeasuredImages]:
    """Join what is kept of each side.

    Raises:
        KeyError: If a batch is not kept.
    """
    batches: dict[Side, list[MeasuredImages]] = {}
    for part in parts:
        batch = kept.read(part.name)
        if batch is None:
            raise KeyError(part.name)
        batches.setdefault(part.side, []).append(batch)
    return {side: joined(of_side) for side, of_side in batches.items()}
