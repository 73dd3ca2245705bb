"""The interface of frozen scorers, and checks of their values."""

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
    """A frozen model or program that assigns metrics to images."""

    name: str

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Score each image, given its prompt.

        Args:
            images: RGB in [0, 1].
            prompts: One per image.

        Returns:
            One value per image for each metric, higher is better, on the CPU.
        """
        ...


@runtime_checkable
class PartialScorer(Scorer, Protocol):
    """A scorer without a value for some prompts; `score` is not called with those."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of what `score` returns."""
        ...

    def why_missing(self, prompt: str) -> str:
        """Return why images of a prompt have no value; empty if they have one."""
        ...


def why_missing(scorer: Scorer, prompt: str) -> str:
    """Return why a scorer has no value for images of a prompt; empty if it has one."""
    # A runtime protocol: isinstance checks for the members, so scorers need not inherit from it.
    return scorer.why_missing(prompt) if isinstance(scorer, PartialScorer) else ""


def score_images(
    scorer: Scorer,
    images: Float[Tensor, "batch 3 height width"],
    prompts: Sequence[str],
    origins: Sequence[str] = (),
) -> dict[str, Float[Tensor, "batch"]]:
    """Score images, and check every value.

    Args:
        scorer: The scorer.
        images: RGB in [0, 1].
        prompts: One per image.
        origins: Description of each image for errors, for instance `seed 3`.

    Returns:
        One value per image for each metric, as `scorer.metric`. NaN marks only images of prompts
        for which the scorer has no value.

    Raises:
        NonFiniteError: If a value is NaN or infinite; names metric, prompt and origin.
    """
    # score is not called with prompts that it has no value for.
    possible = [i for i, prompt in enumerate(prompts) if not why_missing(scorer, prompt)]
    if isinstance(scorer, PartialScorer) and len(possible) < len(prompts):
        # NaN rather than 0, which would lower the mean of the metric.
        missing = torch.full((len(prompts),), torch.nan)
        # Clones, because values are written in place below.
        values = {metric: missing.clone() for metric in scorer.metrics}
        if possible:
            scores = scorer.score(images[possible], [prompts[i] for i in possible])
            for metric, value in scores.items():
                # A scorer may return half precision; the mean over prompts needs float32.
                values[metric][possible] = value.float()
    else:
        values = dict(scorer.score(images, prompts))
    named = {f"{scorer.name}.{metric}": value for metric, value in values.items()}
    for metric, value in named.items():
        # Only those images: the NaN of the others is intended.
        check_finite(metric, value[possible], [(prompts[i], _at(origins, i)) for i in possible])
    return named


def check_finite(
    metric: str, values: Float[Tensor, "batch"], images: Sequence[tuple[str, str]]
) -> None:
    """Raise an error if a value is not finite.

    Args:
        metric: As `scorer.metric`.
        values: One per image.
        images: Prompt and origin of each.

    Raises:
        NonFiniteError: If a value is NaN or infinite.
    """
    # One NaN would make the mean over all prompts NaN, without a trace of the image.
    faulty = torch.isfinite(values).logical_not().nonzero().flatten().tolist()
    if not faulty:
        return
    prompt, origin = images[faulty[0]]
    raise NonFiniteError(
        f"{metric} of an image for {prompt!r}{f' ({origin})' if origin else ''} is not a finite "
        "number",
        repair="check the adapter and the scorer's weights: one of them produces NaN or infinity",
    )


def describe_missing(scorers: Iterable[Scorer], prompts: Sequence[str]) -> dict[str, str]:
    """Return the metrics that have no value for some prompts, and why.

    Returns:
        For instance `no value for 52 of 64 prompts: it quotes no text`, by `scorer.metric`.
    """
    missing: dict[str, str] = {}
    for scorer in scorers:
        if not isinstance(scorer, PartialScorer):
            continue
        reasons = Counter(filter(None, (scorer.why_missing(prompt) for prompt in prompts)))
        if reasons:
            text = f"no value for {reasons.total()} of {len(prompts)} prompts: {'; '.join(reasons)}"
            missing |= {f"{scorer.name}.{metric}": text for metric in scorer.metrics}
    return missing


def check_metrics_cover(
    metric: str, scorers: Iterable[Scorer], prompts: Sequence[str], *, setting: str
) -> None:
    """Raise an error if a metric has no value for some prompts.

    Args:
        metric: As `scorer.metric`.
        scorers: Frozen scorers.
        prompts: Prompts that images are generated for.
        setting: The setting that names the metric.

    Raises:
        ConfigError: If a prompt has no value; says how many prompts, and why.
    """
    if missing := describe_missing(scorers, prompts).get(metric):
        raise ConfigError(
            f"{setting}={metric} has {missing}",
            repair=f"set {setting} to a metric that every prompt has, or remove those prompts",
        )


def _at(origins: Sequence[str], position: int) -> str:
    return origins[position] if origins else ""
