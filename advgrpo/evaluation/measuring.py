"""Everything that is measured of a set of images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.backbones.dino import DinoBackbone
from advgrpo.errors import NonFiniteError
from advgrpo.scorers.base import Scorer
from advgrpo.scorers.statistics import image_statistics

Reward = Callable[[Float[Tensor, "batch 3 height width"], Sequence[str]], Float[Tensor, "batch"]]
"""Rewards images with their prompts."""

REWARD = "discriminator.reward"
STATISTICS = "image"


@dataclass(frozen=True)
class Batch:
    """Images, and the position of each one's prompt among those of the evaluation."""

    images: Float[Tensor, "batch 3 height width"]
    prompts: Sequence[int]


@dataclass(frozen=True)
class MeasuredImages:
    """Measures of a set of images; the images themselves are gone."""

    prompts: Int[Tensor, "image"]
    """Position of each image's prompt; images of a prompt stand together."""

    values: Mapping[str, Float[Tensor, "image"]]
    """Measures that each image has by itself."""

    features: Float[Tensor, "image feature"]
    """Class tokens of the backbone."""

    def by_prompt(self, measure: str) -> Float[Tensor, "prompt"]:
        """Average a measure over the images of each prompt; every prompt must have one."""
        values = self.values[measure].double()
        counts = torch.bincount(self.prompts).double()
        return torch.zeros_like(counts).index_add_(0, self.prompts, values) / counts

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
        )


class Measurer:
    """Applies all measures to images.

    Args:
        texts: Prompts of the evaluation.
        scorers: Frozen measures.
        backbone: Its class token is the feature of the distances.
        reward: The run's trained reward, if it is at hand.
    """

    def __init__(
        self,
        texts: Sequence[str],
        scorers: Sequence[Scorer],
        backbone: DinoBackbone,
        reward: Reward | None,
    ) -> None:
        self._texts, self._scorers, self._backbone = texts, scorers, backbone
        self._reward = reward

    def measure(self, batches: Iterable[Batch]) -> MeasuredImages:
        """Measure images batch by batch.

        Raises:
            NonFiniteError: If a measure is NaN or infinite; names it, and the prompt.
        """
        prompts: list[int] = []
        features: list[Tensor] = []
        values: dict[str, list[Tensor]] = {}
        for batch in batches:
            prompts += batch.prompts
            features.append(self._backbone.tokens(batch.images)[:, 0].cpu())
            for name, value in self.values(batch).items():
                values.setdefault(name, []).append(value)
        return MeasuredImages(
            prompts=torch.tensor(prompts),
            values={name: torch.cat(parts) for name, parts in values.items()},
            features=torch.cat(features),
        )

    def values(self, batch: Batch) -> dict[str, Float[Tensor, "batch"]]:
        """Measure each image of a batch by itself, on the CPU."""
        texts = [self._texts[position] for position in batch.prompts]
        values = {
            f"{scorer.name}.{measure}": value
            for scorer in self._scorers
            for measure, value in scorer.score(batch.images, texts).items()
        }
        if self._reward is not None:
            values[REWARD] = self._reward(batch.images, texts).detach().cpu()
        for measure, value in image_statistics(batch.images).items():
            values[f"{STATISTICS}.{measure}"] = value
        for measure, value in values.items():
            finite = torch.isfinite(value)
            if not finite.all():
                culprit = texts[int(finite.logical_not().nonzero()[0])]
                raise NonFiniteError(
                    f"{measure} of an image for {culprit!r} is not a finite number",
                    repair="look at the images; a model that draws NaN cannot be measured",
                )
        return values
