"""Which prompts are shown, and their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.config import EvaluationConfig
from advgrpo.evaluation.batches import Champion, Side, drawn_as
from advgrpo.evaluation.images import Drawer, Library

Why = Literal["spread", "best", "worst", "rose", "fell"]
"""Why a prompt is shown: it is one of several spread evenly over the file, the trained model's
alignment is among the highest or lowest, or its alignment is among those that rose or fell most."""

EXTREMES = 2
"""Prompts shown of each kind but `spread`."""

SHOWN_IMAGES = 2
"""Most images of a prompt and model that are shown."""


@dataclass(frozen=True)
class Example:
    """Images of one prompt, the same seeds for all models."""

    prompt: str
    why: Why
    base_alignment: float
    """Mean over all images of the prompt, not only those shown."""

    trained_alignment: float
    base: Float[Tensor, "sample 3 height width"]
    trained: Float[Tensor, "sample 3 height width"]
    reference: Float[Tensor, "reference_sample 3 height width"]
    champion_alignment: float | None = None
    champion: Float[Tensor, "sample 3 height width"] | None = None


def pick_examples(
    drawer: Drawer,
    library: Library,
    alignment: Mapping[Side, Float[Tensor, "prompt"]],
    champion: Champion | None = None,
) -> tuple[Example, ...]:
    """Draw again what is shown: keeping every image would not fit in memory.

    Args:
        drawer: Draws the images.
        library: Reads the reference images.
        alignment: Alignment of each prompt by `base`, `trained` and, if there is one, `champion`.
        champion: Whose images are shown as well.
    """
    shown = choose_prompts(alignment["base"], alignment["trained"], drawer.config)
    prompts = list(dict.fromkeys(prompt for prompt, _why in shown))
    images: dict[Side, dict[int, Tensor]] = {}
    for side in alignment:
        with drawn_as(side, drawer, champion):
            images[side] = _drawn(drawer, prompts)
    return tuple(
        Example(
            prompt=drawer.texts[prompt],
            why=why,
            base_alignment=float(alignment["base"][prompt]),
            trained_alignment=float(alignment["trained"][prompt]),
            base=images["base"][prompt],
            trained=images["trained"][prompt],
            reference=library.images(prompt, limit=SHOWN_IMAGES),
            champion_alignment=(
                float(alignment["champion"][prompt]) if "champion" in alignment else None
            ),
            champion=images["champion"][prompt] if "champion" in images else None,
        )
        for prompt, why in shown
    )


def choose_prompts(
    base: Float[Tensor, "prompt"], trained: Float[Tensor, "prompt"], config: EvaluationConfig
) -> list[tuple[int, Why]]:
    """Choose which prompts are shown, by their position."""
    change = trained - base
    by_change = change.argsort(stable=True).tolist()
    by_value = trained.argsort(stable=True).tolist()
    spread = evenly_spread(len(change), config.grid_prompts, seed=config.seed)
    return [
        *((prompt, "spread") for prompt in spread),
        *((prompt, "best") for prompt in by_value[::-1][:EXTREMES]),
        *((prompt, "worst") for prompt in by_value[:EXTREMES]),
        *((prompt, "rose") for prompt in by_change[::-1][:EXTREMES] if change[prompt] > 0),
        *((prompt, "fell") for prompt in by_change[:EXTREMES] if change[prompt] < 0),
    ]


def _drawn(drawer: Drawer, prompts: Sequence[int]) -> dict[int, Tensor]:
    """Draw what is shown of each prompt."""
    samples = min(SHOWN_IMAGES, drawer.config.images_per_prompt)
    images = drawer.draw([(prompt, number) for prompt in prompts for number in range(samples)])
    return dict(zip(prompts, images.split(samples), strict=True))


def evenly_spread(count: int, wanted: int, *, seed: int) -> list[int]:
    """Pick positions in [0, count): one by lot from each of as many equal parts; all if too few.

    Positions at equal steps would all be alike where a prompt file has a pattern.
    """
    wanted = min(count, wanted)
    starts = [part * count // wanted for part in range(wanted + 1)]
    lots = torch.rand(wanted, generator=generator_for("evenly spread", seed)).tolist()
    return [
        start + int(lot * (end - start))
        for start, end, lot in zip(starts, starts[1:], lots, strict=False)
    ]
