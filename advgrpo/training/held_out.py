"""Held-out metrics: distance, alignment and image statistics on prompts that do not train."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.seeds import seed_for
from advgrpo.config.policy import SamplingConfig
from advgrpo.config.reward import DISCRIMINATOR
from advgrpo.data.image_loading import load_images
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.policies.base import FlowModel
from advgrpo.models.policies.sampling import sample_images
from advgrpo.models.scorers.base import Scorer, score_images
from advgrpo.models.scorers.critic import fresh_critic_order
from advgrpo.models.scorers.distance import frechet_distance
from advgrpo.models.scorers.statistics import image_statistics
from advgrpo.records import ReferenceImageSet
from advgrpo.runtime.process_group import ProcessGroup


@runtime_checkable
class Logger(Protocol):
    """Destination of a run's metrics and pictures; it never fails or blocks."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of an update."""
        ...

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Log a picture of an update."""
        ...

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        ...

    def unsent_pictures(self) -> list[tuple[str, int, bytes]]:
        """Return the pictures, by name and update, that would be lost with this machine."""
        ...


@dataclass(frozen=True)
class HeldOut:
    """Images of prompts that the policy was not trained on, and their metrics."""

    metrics: Mapping[str, float]

    images: Float[Tensor, "batch 3 height width"]
    """This rank's."""

    rewards: Mapping[str, Float[Tensor, "prompt"]]
    """The run's rewards of the images of all ranks, in the order of the prompts."""


Rewards = Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]]
"""Rewards of images with their prompts, `[batch]`, as `Reward.values` returns them."""

STATISTICS = "image"
REFERENCE_STATISTICS = "reference_image"
CRITIC_ORDER = "held_out/order.critic"

LEAST_CRITIC_PROMPTS = 32
"""Held-out prompts at least for a fresh critic: with fewer, its order is chance."""


@runtime_checkable
class Monitor(Protocol):
    """Evaluates the policy on prompts that it is not trained on."""

    @property
    def reference_metrics(self) -> Mapping[str, float]:
        """Metrics of the reference images of these prompts."""
        ...

    def measure(self, policy: FlowModel, rewards: Rewards) -> HeldOut:
        """Generate images and evaluate them; every rank must call it."""
        ...


class HeldOutMonitor:
    """Evaluates the policy on training prompts that no rollout uses.

    Their reference images never train the discriminator, and they are not the test prompts, so
    selecting a checkpoint by them does not bias the test.

    Args:
        prompts: Texts of held-out prompts, a multiple of the ranks; each gets one image.
        reference_images: Of the training prompts, these included.
        backbone: Its class token is the feature space of the distance.
        scorers: Frozen scorers.
        sampling: Steps and guidance.
        process_group: The training processes; they share the prompts.
        batch_size: Images generated at once.
        seed: The run's seed.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        reference_images: ReferenceImageSet,
        backbone: DinoBackbone,
        scorers: Sequence[Scorer],
        sampling: SamplingConfig,
        process_group: ProcessGroup,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self._prompts = list(prompts)
        # Interleaved, so that ranks get equal shares; `_gather` restores the order.
        self._mine = self._prompts[process_group.rank :: process_group.world_size]
        self._backbone, self._scorers, self._sampling = backbone, scorers, sampling
        self._process_group, self._batch_size, self._seed = process_group, batch_size, seed
        features, statistics = [], []
        for prompt in self._prompts:
            images = _all_images(reference_images, prompt)
            features.append(self._features(images))
            statistics.append(image_statistics(images))
        # Stacked, so every held-out prompt must have the same number of reference images.
        self._reference = torch.stack(features).cpu()
        self._reference_statistics = {
            name: torch.cat([values[name] for values in statistics]) for name in statistics[0]
        }

    @property
    def reference_metrics(self) -> dict[str, float]:
        """Image statistics of the reference images, which do not change: mean and deviation."""
        metrics = {}
        for name, values in self._reference_statistics.items():
            metrics[f"held_out/{REFERENCE_STATISTICS}.{name}"] = float(values.mean())
            deviation = float(values.std(correction=0))
            metrics[f"held_out/{REFERENCE_STATISTICS}.{name}_deviation"] = deviation
        return metrics

    def measure(self, policy: FlowModel, rewards: Rewards) -> HeldOut:
        """Generate one image per prompt and evaluate them; every rank must call it.

        Args:
            policy: With the weights to evaluate.
            rewards: Computes the run's rewards.

        Returns:
            The same metrics on every rank, and this rank's images.
        """
        images = torch.cat(
            [
                self._generate(policy, self._mine[first : first + self._batch_size])
                for first in range(0, len(self._mine), self._batch_size)
            ]
        )
        # The distance is not a mean over images, so features are gathered instead of averaged
        # metrics.
        features = self._gather(self._features(images))
        metrics = {
            "held_out/distance": frechet_distance(
                self._class_tokens(features), self._class_tokens(self._reference.flatten(0, 1))
            )
        }
        if len(self._prompts) >= LEAST_CRITIC_PROMPTS:
            metrics[CRITIC_ORDER] = fresh_critic_order(features, self._reference)
        metrics |= self._scores(images)
        # A mean of means is the mean: all ranks have the same number of prompts.
        for name, values in image_statistics(images).items():
            metrics[f"held_out/{STATISTICS}.{name}"] = self._process_group.all_reduce_mean(
                float(values.mean())
            )
        rewarded = rewards(images, self._mine)
        mean = self._process_group.all_reduce_mean(float(rewarded[DISCRIMINATOR].mean()))
        metrics["held_out/reward"] = mean
        return HeldOut(
            metrics=metrics,
            images=images,
            rewards={name: self._gather(value) for name, value in rewarded.items()},
        )

    def _gather(self, values: Tensor) -> Tensor:
        """Join the ranks' rows in the order of the prompts, on the CPU."""
        rows = self._process_group.gather(values.to(self._process_group.device)).cpu()
        return (
            rows.view(self._process_group.world_size, -1, *rows.shape[1:])
            .transpose(0, 1)
            .flatten(0, 1)
        )

    def _generate(self, policy: FlowModel, prompts: Sequence[str]) -> Tensor:
        images = sample_images(
            policy,
            prompts,
            self._seeds(prompts),
            num_inference_steps=self._sampling.num_inference_steps,
            guidance_scale=self._sampling.guidance_scale,
        )
        self._process_group.monitor.beat()
        return images

    def _scores(self, images: Tensor) -> dict[str, float]:
        origins = [f"seed {seed}" for seed in self._seeds(self._mine)]
        means = {}
        for scorer in self._scorers:
            scores = score_images(scorer, images, self._mine, origins)
            # A scorer that runs a program for each image may take as long as generating all.
            self._process_group.monitor.beat()
            for name, values in scores.items():
                gathered = self._process_group.gather(values.to(self._process_group.device))
                # A scorer may have no value for any of the prompts, such as one that reads text.
                if not gathered.isnan().all():
                    # Not the mean of the ranks' means: their numbers of values may differ.
                    means[f"held_out/{name}"] = float(gathered.nanmean())
        return means

    def _seeds(self, prompts: Sequence[str]) -> list[int]:
        # The same at every evaluation, so that differences between updates are not those of the
        # noise.
        return [seed_for(self._seed, "held out", prompt) for prompt in prompts]

    def _features(self, images: Tensor) -> Float[Tensor, "image feature"]:
        """Class token, and mean of the patches, which a critic needs to see texture."""
        tokens = self._backbone.tokens(images).float()
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)

    def _class_tokens(self, features: Float[Tensor, "image feature"]) -> Tensor:
        return features[:, : self._backbone.width]


def _all_images(reference_images: ReferenceImageSet, prompt: str) -> Tensor:
    return load_images(reference_images, prompt, range(len(reference_images.files[prompt])))
