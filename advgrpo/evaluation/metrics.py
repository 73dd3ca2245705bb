"""Everything that is measured of a set of images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.scorers.base import Scorer, check_finite, measured
from advgrpo.models.scorers.statistics import image_statistics

Reward = Callable[[Float[Tensor, "batch 3 height width"], Sequence[str]], Float[Tensor, "batch"]]
"""Rewards images with their prompts."""

REWARD = "discriminator.reward"
STATISTICS = "image"


@dataclass(frozen=True)
class Batch:
    """Images, and the position of each one's prompt among those of the evaluation."""

    images: Float[Tensor, "batch 3 height width"]
    prompts: Sequence[int]

    origins: Sequence[str] = ()
    """What each image is, for errors: its seed, or that it is a reference image."""


@dataclass(frozen=True)
class MeasuredImages:
    """Measures of a set of images; the images themselves are gone."""

    prompts: Int[Tensor, "image"]
    """Position of each image's prompt; images of a prompt stand together."""

    values: Mapping[str, Float[Tensor, "image"]]
    """Measures that each image has by itself; NaN marks an image of a prompt that a scorer cannot
    measure."""

    features: Float[Tensor, "image feature"]
    """Class tokens of the backbone."""

    clip_features: Float[Tensor, "image clip_feature"] | None = None
    """CLIP embeddings of length 1, if they are asked for."""

    def by_prompt(self, metric: str) -> Float[Tensor, "prompt"]:
        """Average a measure over the images of each prompt; NaN for a prompt without a value."""
        return mean_by_prompt(self.values[metric], self.prompts)

    def every_other(self, first: int) -> "MeasuredImages":
        """Take every second image, from the first or the second of each prompt's on."""
        changes = self.prompts.diff(prepend=self.prompts.new_tensor([-1])) != 0
        starts = changes.nonzero().squeeze(1)
        number = torch.arange(len(self.prompts)) - starts[changes.cumsum(0) - 1]
        chosen = number % 2 == first
        return MeasuredImages(
            prompts=self.prompts[chosen],
            values={name: value[chosen] for name, value in self.values.items()},
            features=self.features[chosen],
            clip_features=None if self.clip_features is None else self.clip_features[chosen],
        )


def mean_by_prompt(
    values: Float[Tensor, "image"], prompts: Int[Tensor, "image"]
) -> Float[Tensor, "prompt"]:
    """Average a value over the images of each prompt that have one; NaN where none has."""
    has_value = values.isnan().logical_not()
    count = int(prompts.max()) + 1
    chosen = prompts[has_value]
    sums = torch.zeros(count, dtype=torch.float64)
    sums.index_add_(0, chosen, values[has_value].double())
    return sums / torch.bincount(chosen, minlength=count)


class Measurer:
    """Applies all measures to images.

    Args:
        texts: Prompts of the evaluation.
        scorers: Frozen measures.
        backbone: Its class token is the feature of the distances.
        reward: The run's trained reward, if it is at hand.
        clip: Its image embedding is the feature of CMMD, if that is asked for.
    """

    def __init__(
        self,
        texts: Sequence[str],
        scorers: Sequence[Scorer],
        backbone: DinoBackbone,
        reward: Reward | None,
        clip: ClipBackbone | None = None,
    ) -> None:
        self._texts, self._scorers, self._backbone = texts, scorers, backbone
        self._reward, self._clip = reward, clip

    def measure(self, batches: Iterable[Batch]) -> MeasuredImages:
        """Measure images batch by batch.

        Raises:
            NonFiniteError: If a measure is NaN or infinite; names it, the prompt and the seed.
        """
        prompts: list[int] = []
        features: list[Tensor] = []
        clip_features: list[Tensor] = []
        values: dict[str, list[Tensor]] = {}
        for batch in batches:
            prompts += batch.prompts
            features.append(self._backbone.tokens(batch.images)[:, 0].cpu())
            if self._clip is not None:
                clip_features.append(self._clip.image_features(batch.images).cpu())
            for name, value in self.values(batch).items():
                values.setdefault(name, []).append(value)
        return MeasuredImages(
            prompts=torch.tensor(prompts),
            values={name: torch.cat(parts) for name, parts in values.items()},
            features=torch.cat(features),
            clip_features=torch.cat(clip_features) if clip_features else None,
        )

    def values(self, batch: Batch) -> dict[str, Float[Tensor, "batch"]]:
        """Measure each image of a batch by itself, on the CPU."""
        texts = [self._texts[position] for position in batch.prompts]
        values: dict[str, Tensor] = {}
        for scorer in self._scorers:
            values |= measured(scorer, batch.images, texts, batch.origins)
        ours: dict[str, Tensor] = {}
        if self._reward is not None:
            ours[REWARD] = self._reward(batch.images, texts).detach().cpu()
        for metric, value in image_statistics(batch.images).items():
            ours[f"{STATISTICS}.{metric}"] = value
        origins = batch.origins or [""] * len(texts)
        for metric, value in ours.items():
            check_finite(metric, value, list(zip(texts, origins, strict=True)))
        return values | ours
