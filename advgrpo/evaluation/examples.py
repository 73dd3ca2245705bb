"""Which prompts are shown, and their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.evaluation.drawing import Drawer, Library

Why = Literal["spread", "rose", "fell"]
"""Why a prompt is shown: it is one of several spread evenly over the file, or its alignment is
among those that rose or fell most."""

EXTREMES = 2
"""Prompts shown whose alignment rose most, and as many whose alignment fell most."""

SHOWN_IMAGES = 2
"""Most images of a prompt and model that are shown."""


@dataclass(frozen=True)
class Example:
    """Images of one prompt, the same seeds for both models."""

    prompt: str
    why: Why
    base_alignment: float
    """Mean over all images of the prompt, not only those shown."""

    trained_alignment: float
    base: Float[Tensor, "sample 3 height width"]
    trained: Float[Tensor, "sample 3 height width"]
    reference: Float[Tensor, "reference_sample 3 height width"]


def pick_examples(
    drawer: Drawer,
    library: Library,
    base_alignment: Float[Tensor, "prompt"],
    trained_alignment: Float[Tensor, "prompt"],
) -> tuple[Example, ...]:
    """Draw again what is shown: keeping every image would not fit in memory."""
    config = drawer.config
    change = trained_alignment - base_alignment
    order = change.argsort(stable=True).tolist()
    shown: list[tuple[int, Why]] = [
        (prompt, "spread")
        for prompt in evenly_spread(len(change), config.grid_prompts, seed=config.seed)
    ]
    shown += [(prompt, "rose") for prompt in order[::-1][:EXTREMES] if change[prompt] > 0]
    shown += [(prompt, "fell") for prompt in order[:EXTREMES] if change[prompt] < 0]
    prompts = list(dict.fromkeys(prompt for prompt, _why in shown))
    with drawer.policy.base_policy():
        base = _drawn(drawer, prompts)
    trained = _drawn(drawer, prompts)
    return tuple(
        Example(
            prompt=drawer.texts[prompt],
            why=why,
            base_alignment=float(base_alignment[prompt]),
            trained_alignment=float(trained_alignment[prompt]),
            base=base[prompt],
            trained=trained[prompt],
            reference=library.images(prompt, limit=SHOWN_IMAGES),
        )
        for prompt, why in shown
    )


def _drawn(drawer: Drawer, prompts: Sequence[int]) -> dict[int, Tensor]:
    """Draw what is shown of each prompt."""
    samples = min(SHOWN_IMAGES, drawer.config.images_per_prompt)
    batches = drawer.batches([(prompt, number) for prompt in prompts for number in range(samples)])
    images = torch.cat([batch.images.cpu() for batch in batches])
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
