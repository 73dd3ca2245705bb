"""Images, metrics and examples of an evaluation: plain data, without models."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.evaluation.saved_evaluation import Why
from advgrpo.records import EvaluationReport

REWARD = "discriminator.reward"
"""Name of the metric of the run's trained reward."""

STATISTICS = "image"
"""First part of the names of pixel statistics."""

Reward = Callable[[Float[Tensor, "batch 3 height width"], Sequence[str]], Float[Tensor, "batch"]]
"""A reward of images, given their prompts."""


@dataclass(frozen=True)
class Champion:
    """The adapter that a trained one is to replace."""

    version: int
    """Of the registered model."""

    digest: str
    """SHA-256 of its adapter: cached batches of one champion do not apply to the next."""

    adapter: Callable[[], AbstractContextManager[None]]
    """A context in which the policy samples with the champion's adapter."""


@dataclass(frozen=True)
class Batch:
    """Images, and the position of each one's prompt among those of the evaluation."""

    images: Float[Tensor, "batch 3 height width"]
    prompts: Sequence[int]

    origins: Sequence[str] = ()
    """Description of each image for errors: its seed, or that it is a reference image."""


@dataclass(frozen=True)
class MeasuredImages:
    """Metrics and features of a set of images, without the images."""

    prompts: Int[Tensor, "image"]
    """Position of each image's prompt; images of a prompt are adjacent."""

    values: Mapping[str, Float[Tensor, "image"]]
    """Metrics of single images; NaN marks an image of a prompt for which a scorer has no value."""

    features: Float[Tensor, "image feature"]
    """Class tokens of the backbone."""

    clip_features: Float[Tensor, "image clip_feature"] | None = None
    """CLIP embeddings of length 1, if CMMD is computed."""

    def by_prompt(self, metric: str) -> Float[Tensor, "prompt"]:
        """Average a metric over the images of each prompt; NaN for a prompt without a value."""
        return mean_by_prompt(self.values[metric], self.prompts)

    def every_other(self, first: int) -> "MeasuredImages":
        """Take every second image of each prompt, starting at position `first` (0 or 1)."""
        changes = self.prompts.diff(prepend=self.prompts.new_tensor([-1])) != 0
        starts = changes.nonzero().squeeze(1)
        # Images of a prompt are adjacent, so an image's number is its distance from the first one.
        number = torch.arange(len(self.prompts)) - starts[changes.cumsum(0) - 1]
        chosen = number % 2 == first
        return MeasuredImages(
            prompts=self.prompts[chosen],
            values={name: value[chosen] for name, value in self.values.items()},
            features=self.features[chosen],
            clip_features=None if self.clip_features is None else self.clip_features[chosen],
        )


@dataclass(frozen=True)
class Example:
    """Images of one prompt, with the same seeds for all models."""

    prompt: str
    why: Why
    base_alignment: float
    """Mean over all images of the prompt, not only those of the example."""

    trained_alignment: float
    base: Float[Tensor, "sample 3 height width"]
    trained: Float[Tensor, "sample 3 height width"]
    reference: Float[Tensor, "reference_sample 3 height width"]
    champion_alignment: float | None = None
    champion: Float[Tensor, "sample 3 height width"] | None = None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of an adapter, and examples of its images."""

    report: EvaluationReport
    examples: tuple[Example, ...]


def mean_by_prompt(
    values: Float[Tensor, "image"], prompts: Int[Tensor, "image"]
) -> Float[Tensor, "prompt"]:
    """Average a value over the images of each prompt that have one; NaN where none has."""
    has_value = values.isnan().logical_not()
    count = int(prompts.max()) + 1
    chosen = prompts[has_value]
    sums = torch.zeros(count, dtype=torch.float64)
    sums.index_add_(0, chosen, values[has_value].double())
    # 0 / 0 is the NaN of a prompt without values.
    return sums / torch.bincount(chosen, minlength=count)
