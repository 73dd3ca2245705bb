"""The interface of frozen measures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.errors import ConfigError, NonFiniteError
from advgrpo.records import ReferenceImageSet


@dataclass(frozen=True)
class BuildContext:
    """Inputs of a scorer's `build` besides its settings."""

    device: torch.device
    reference_images: ReferenceImageSet | None
    """Of the prompts that images are generated for; None if there are none."""


@runtime_checkable
class Scorer(Protocol):
    """Measures images; never trained on by the run that it measures."""

    name: str

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Measure each image against its prompt.

        Args:
            images: RGB in [0, 1].
            prompts: One per image.

        Returns:
            One value per image for each measure, higher is better, on the CPU.
        """
        ...


@runtime_checkable
class PartialScorer(Scorer, Protocol):
    """A scorer that cannot measure each prompt; `score` is never asked about those it cannot."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What `score` returns."""
        ...

    def why_missing(self, prompt: str) -> str:
        """Say in words why images of a prompt have no value; empty if they have one."""
        ...


def why_missing(scorer: Scorer, prompt: str) -> str:
    """Say in words why a scorer has no value for images of a prompt; empty if it has one."""
    return scorer.why_missing(prompt) if isinstance(scorer, PartialScorer) else ""


def score_images(
    scorer: Scorer,
    images: Float[Tensor, "batch 3 height width"],
    prompts: Sequence[str],
    origins: Sequence[str] = (),
) -> dict[str, Float[Tensor, "batch"]]:
    """Measure images by a scorer, and trust no value.

    Args:
        scorer: What measures.
        images: RGB in [0, 1].
        prompts: One per image.
        origins: What each image is, for errors: for instance `seed 3`.

    Returns:
        One value per image for each measure, as `scorer.measure`. NaN marks an image of a prompt
        that the scorer cannot measure, and nothing else.

    Raises:
        NonFiniteError: If a value is NaN or infinite; names measure, prompt and origin.
    """
    possible = [i for i, prompt in enumerate(prompts) if not why_missing(scorer, prompt)]
    if isinstance(scorer, PartialScorer) and len(possible) < len(prompts):
        blank = torch.full((len(prompts),), torch.nan)
        values = {metric: blank.clone() for metric in scorer.metrics}
        if possible:
            scores = scorer.score(images[possible], [prompts[i] for i in possible])
            for metric, value in scores.items():
                values[metric][possible] = value.float()
    else:
        values = dict(scorer.score(images, prompts))
    named = {f"{scorer.name}.{metric}": value for metric, value in values.items()}
    for metric, value in named.items():
        check_finite(metric, value[possible], [(prompts[i], _at(origins, i)) for i in possible])
    return named


def check_finite(
    metric: str, values: Float[Tensor, "batch"], images: Sequence[tuple[str, str]]
) -> None:
    """Refuse a value that is no number.

    Args:
        metric: As `scorer.measure`.
        values: One per image.
        images: Prompt and origin of each.

    Raises:
        NonFiniteError: If a value is NaN or infinite.
    """
    faulty = torch.isfinite(values).logical_not().nonzero().flatten().tolist()
    if not faulty:
        return
    prompt, origin = images[faulty[0]]
    raise NonFiniteError(
        f"{metric} of an image for {prompt!r}{f' ({origin})' if origin else ''} is not a finite "
        "number",
        repair="look at the images; a model that draws NaN cannot be measured",
    )


def describe_missing(scorers: Iterable[Scorer], prompts: Sequence[str]) -> dict[str, str]:
    """Say which measures have no value for some prompts, and why.

    Returns:
        For instance `no value for 52 of 64 prompts: it quotes no text`, by `scorer.measure`.
    """
    words: dict[str, str] = {}
    for scorer in scorers:
        if not isinstance(scorer, PartialScorer):
            continue
        reasons = Counter(filter(None, (scorer.why_missing(prompt) for prompt in prompts)))
        if reasons:
            text = f"no value for {reasons.total()} of {len(prompts)} prompts: {'; '.join(reasons)}"
            words |= {f"{scorer.name}.{metric}": text for metric in scorer.metrics}
    return words


def check_metrics_cover(
    metric: str, scorers: Iterable[Scorer], prompts: Sequence[str], *, setting: str
) -> None:
    """Refuse a measure that a decision rests on and that has no value for some prompts.

    Args:
        metric: As `scorer.measure`.
        scorers: The frozen measures.
        prompts: What is drawn.
        setting: What names the measure.

    Raises:
        ConfigError: If a prompt has no value; says how many have none, and why.
    """
    if words := describe_missing(scorers, prompts).get(metric):
        raise ConfigError(
            f"{setting}={metric} has {words}",
            repair="name a measure that each prompt has, or leave those prompts out",
        )


def _at(origins: Sequence[str], position: int) -> str:
    return origins[position] if origins else ""
