"""Examples of an evaluation: the choice of prompts, and their images."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.evaluation.images import ImageSampler, ReferenceReader
from advgrpo.evaluation.results import Champion, Example
from advgrpo.evaluation.saved_evaluation import Side, Why

EXTREMES = 2
"""Number of prompts for each reason but `spread`."""

EXAMPLE_IMAGES = 2
"""Largest number of images of a prompt and model."""


def pick_examples(
    sampler: ImageSampler,
    references: ReferenceReader,
    alignment: Mapping[Side, Float[Tensor, "prompt"]],
    champion: Champion | None = None,
) -> tuple[Example, ...]:
    """Choose prompts and sample their images.

    Args:
        sampler: Samples the images.
        references: Reads the reference images.
        alignment: Alignment of each prompt by `base`, `trained` and, if there is one, `champion`.
        champion: Its images are included.
    """
    # By alignment, because the distances have no value for a single prompt.
    chosen = choose_prompts(alignment["base"], alignment["trained"], sampler.config)
    # A prompt may be chosen for several reasons, but is sampled once.
    prompts = list(dict.fromkeys(prompt for prompt, _why in chosen))
    images: dict[Side, dict[int, Tensor]] = {}
    # Sampled a second time: the images of the whole evaluation would not fit in memory.
    for side in alignment:
        with sampler.sampling_as(side, champion):
            images[side] = _sample(sampler, prompts)
    return tuple(
        Example(
            prompt=sampler.texts[prompt],
            why=why,
            base_alignment=float(alignment["base"][prompt]),
            trained_alignment=float(alignment["trained"][prompt]),
            base=images["base"][prompt],
            trained=images["trained"][prompt],
            reference=references.images(prompt, limit=EXAMPLE_IMAGES),
            champion_alignment=(
                float(alignment["champion"][prompt]) if "champion" in alignment else None
            ),
            champion=images["champion"][prompt] if "champion" in images else None,
        )
        for prompt, why in chosen
    )


def choose_prompts(
    base: Float[Tensor, "prompt"], trained: Float[Tensor, "prompt"], config: EvaluationConfig
) -> list[tuple[int, Why]]:
    """Choose the prompts of the examples, by their position."""
    # Accuracy metrics have many ties: stable sorts make the choice reproducible.
    change = trained - base
    by_change = change.argsort(stable=True).tolist()
    by_value = trained.argsort(stable=True).tolist()
    spread = evenly_spread(len(change), config.grid_prompts, seed=config.seed)
    return [
        *((prompt, "spread") for prompt in spread),
        *((prompt, "best") for prompt in by_value[::-1][:EXTREMES]),
        *((prompt, "worst") for prompt in by_value[:EXTREMES]),
        # With few changes, unchanged prompts must not be listed as increases or decreases.
        *((prompt, "rose") for prompt in by_change[::-1][:EXTREMES] if change[prompt] > 0),
        *((prompt, "fell") for prompt in by_change[:EXTREMES] if change[prompt] < 0),
    ]


def _sample(sampler: ImageSampler, prompts: Sequence[int]) -> dict[int, Tensor]:
    """Sample the example images of each prompt."""
    samples = min(EXAMPLE_IMAGES, sampler.config.images_per_prompt)
    # Numbers from 0, so the seeds are those of the evaluation.
    images = sampler.sample([(prompt, number) for prompt in prompts for number in range(samples)])
    return dict(zip(prompts, images.split(samples), strict=True))


def evenly_spread(count: int, wanted: int, *, seed: int) -> list[int]:
    """Pick a random position in each of `wanted` equal parts of [0, count); all if too few."""
    # Not at equal steps: in a prompt file with a pattern these would all be alike.
    wanted = min(count, wanted)
    starts = [part * count // wanted for part in range(wanted + 1)]
    lots = torch.rand(wanted, generator=generator_for("evenly spread", seed)).tolist()
    return [
        start + int(lot * (end - start))
        for start, end, lot in zip(starts, starts[1:], lots, strict=False)
    ]
