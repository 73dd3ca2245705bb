"""All metrics and features of a batch of images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.evaluation.results import REWARD, STATISTICS, Batch, MeasuredImages, Reward
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.scorers.base import Scorer, check_finite, score_images
from advgrpo.models.scorers.statistics import image_statistics


class Measurer:
    """The models that measure images.

    Args:
        texts: Prompts of the evaluation.
        scorers: Frozen scorers.
        backbone: Its class token is the feature of the distances.
        reward: The run's trained reward, if available.
        clip: Its image embedding is the feature of CMMD; None if CMMD is not computed.
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

    def measure(self, batch: Batch) -> MeasuredImages:
        """Compute metrics and features of a batch.

        Raises:
            NonFiniteError: If a metric is NaN or infinite; names it, the prompt and the seed.
        """
        return MeasuredImages(
            prompts=torch.tensor(batch.prompts),
            values=self.values(batch),
            # Token 0 is the class token.
            features=self._backbone.tokens(batch.images)[:, 0].cpu(),
            clip_features=(
                None if self._clip is None else self._clip.image_features(batch.images).cpu()
            ),
        )

    def values(self, batch: Batch) -> dict[str, Float[Tensor, "batch"]]:
        """Compute the metrics of single images, on the CPU."""
        texts = [self._texts[position] for position in batch.prompts]
        values: dict[str, Tensor] = {}
        for scorer in self._scorers:
            values |= score_images(scorer, batch.images, texts, batch.origins)
        own: dict[str, Tensor] = {}
        if self._reward is not None:
            own[REWARD] = self._reward(batch.images, texts).detach().cpu()
        for metric, value in image_statistics(batch.images).items():
            own[f"{STATISTICS}.{metric}"] = value
        origins = batch.origins or [""] * len(texts)
        # score_images has checked the values of the scorers already.
        for metric, value in own.items():
            check_finite(metric, value, list(zip(texts, origins, strict=True)))
        return values | own
