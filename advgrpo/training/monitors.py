"""Watch what is not trained on: held-out prompts, distance, alignment, diversity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.randomness import seed_for
from advgrpo.backbones.dino import DinoBackbone
from advgrpo.config import SamplingConfig
from advgrpo.data.reference_images import load_images
from advgrpo.policy.base import Policy
from advgrpo.policy.sampling import sample_images
from advgrpo.records import ReferenceImageSet
from advgrpo.scorers.base import Scorer
from advgrpo.scorers.distance import frechet_distance
from advgrpo.training.ranks import Ranks


@runtime_checkable
class Logger(Protocol):
    """Where measures and pictures of a run go; never fails, never waits."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note measures of an update."""
        ...

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Note a picture of an update."""
        ...


@dataclass(frozen=True)
class HeldOut:
    """What the policy draws for prompts that it was not trained on."""

    measures: Mapping[str, float]
    images: Float[Tensor, "batch 3 height width"]


class HeldOutMonitor:
    """Measures the policy on training prompts that no rollout takes.

    Their reference images never train the discriminator, and they are not the test prompts, so
    choosing a checkpoint by them leaves the test honest.

    Args:
        prompts: Texts of held-out prompts; each gets one image.
        reference_images: The training set's, which has theirs.
        backbone: Its class token is the feature space of the distance.
        scorers: Frozen measures.
        sampling: Steps and guidance.
        ranks: They share the prompts.
        batch_size: Images sampled at once.
        seed: The run's seed.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        reference_images: ReferenceImageSet,
        backbone: DinoBackbone,
        scorers: Sequence[Scorer],
        sampling: SamplingConfig,
        ranks: Ranks,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        # Equal shares: a gathered tensor has the same shape on each rank.
        self._prompts = list(prompts[: len(prompts) // ranks.count * ranks.count])
        self._mine = self._prompts[ranks.rank :: ranks.count]
        self._backbone, self._scorers, self._sampling = backbone, scorers, sampling
        self._ranks, self._batch_size, self._seed = ranks, batch_size, seed
        self._reference = torch.cat(
            [self._class_tokens(_all_images(reference_images, p)) for p in self._prompts]
        )

    def measure(self, policy: Policy, reward: Callable[[Tensor, Sequence[str]], Tensor]) -> HeldOut:
        """Draw one image per prompt and measure them; every rank must call it.

        Args:
            policy: With the weights to measure.
            reward: The run's reward of images with their prompts, `[batch]`.

        Returns:
            The same measures on every rank, and this rank's images.
        """
        images = torch.cat(
            [
                self._draw(policy, self._mine[first : first + self._batch_size])
                for first in range(0, len(self._mine), self._batch_size)
            ]
        )
        features = self._ranks.gather(self._class_tokens(images))
        measures = {"held_out/distance": frechet_distance(features, self._reference)}
        for scorer in self._scorers:
            for name, values in scorer.score(images, self._mine).items():
                mean = self._ranks.mean(float(values.mean()))
                measures[f"held_out/{scorer.name}.{name}"] = mean
        mean = self._ranks.mean(float(reward(images, self._mine).mean()))
        measures["held_out/reward"] = mean
        return HeldOut(measures=measures, images=images)

    def _draw(self, policy: Policy, prompts: Sequence[str]) -> Tensor:
        return sample_images(
            policy,
            prompts,
            [seed_for(self._seed, "held out", prompt) for prompt in prompts],
            denoising_steps=self._sampling.denoising_steps,
            guidance_scale=self._sampling.guidance_scale,
        )

    def _class_tokens(self, images: Tensor) -> Tensor:
        return self._backbone.tokens(images)[:, 0].float()


def _all_images(reference_images: ReferenceImageSet, prompt: str) -> Tensor:
    return load_images(reference_images, prompt, range(len(reference_images.files[prompt])))
