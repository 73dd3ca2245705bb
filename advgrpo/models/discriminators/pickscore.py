"""A discriminator that is a PickScore with trained vision blocks.

Deviations from the released code: weights stay float32 (in pure bf16 only 7-8 % of them move);
gradients are averaged over ranks; the frozen blocks run once per image, not once per step.
"""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advgrpo.algorithm.discriminator_loss import pairwise_loss
from advgrpo.config.discriminator import PickScoreDiscriminatorConfig
from advgrpo.errors import ConfigError
from advgrpo.models.backbones.clip import PICKSCORE_UNIT, ClipBackbone
from advgrpo.models.backbones.precision import frozen_products
from advgrpo.models.discriminators.base import Features


class PickScoreDiscriminator:
    """Rewards images by a PickScore whose last vision blocks are trained.

    Args:
        config: Its settings.
        device: Device of the model.

    Raises:
        WeightsError: If the model cannot be loaded.
        ConfigError: If the model has fewer blocks than are to be trained.

    Source:
        PickScore, arXiv:2305.01569; Adv-GRPO, arXiv:2511.20256.
    """

    boundary: float | None = None

    def __init__(self, config: PickScoreDiscriminatorConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._clip = ClipBackbone(config.weights, device)
        if config.trained_blocks > self._clip.vision_blocks:
            raise ConfigError(
                f"discriminator.trained_blocks={config.trained_blocks}: the model has "
                f"{self._clip.vision_blocks} vision blocks",
                repair=f"set discriminator.trained_blocks to at most {self._clip.vision_blocks}",
            )
        # The trained blocks are a copy: `_clip` keeps the published ones and its fingerprint.
        self._tail = self._clip.tail(config.trained_blocks)
        self._dtype: torch.dtype = getattr(torch, config.feature_dtype)
        choice = f"{self._clip.fingerprint}:{config.trained_blocks}:{config.feature_dtype}"
        # One file holds the weights of both towers.
        self.frozen_fingerprint = hashlib.sha256(choice.encode()).hexdigest()
        exact = ":float32" if config.frozen_precision == "float32" else ""
        self.fingerprint = hashlib.sha256(f"{choice}{exact}".encode()).hexdigest()

    def image_features(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Run the frozen vision blocks.

        Returns:
            `tokens`: `[batch, token, width]`, on the discriminator's device.
        """
        with frozen_products(self.config.frozen_precision):
            parts = [
                self._clip.hidden_states(batch, before_last=self.config.trained_blocks)
                # Features of all reference images are cached with every token, so half precision,
                # where configured, halves that cache.
                .to(self._dtype)
                for batch in images.split(self.config.feature_batch_size)
            ]
        return {"tokens": torch.cat(parts)}

    def with_prompts(self, features: Features, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Add the prompts' frozen embeddings."""
        return {"tokens": features["tokens"], "prompt": self._clip.text_features(prompts)}

    def _scores(self, features: Features) -> Float[Tensor, "batch"]:
        # Back to float32, in which the trained blocks are.
        images: Tensor = self._tail(features["tokens"].to(self.device).float())
        # Both embeddings have norm 1, so the sum is the cosine.
        return self._clip.logit_scale * (images * features["prompt"]).sum(dim=-1)

    @torch.no_grad()
    def rewards(self, features: Features) -> Float[Tensor, "batch"]:
        """Score images by exp(tau) * cosine(text, image) / 26."""
        # The loss uses undivided scores: it is the log-likelihood of PickScore's own training.
        return self._scores(features) / PICKSCORE_UNIT

    def loss(
        self,
        reference: Features,
        generated: Features,
        mismatched: Features,  # noqa: ARG002 - the score already depends on the prompt
    ) -> Float[Tensor, ""]:
        """Prefer the reference image of each prompt to the generated one."""
        return pairwise_loss(self._scores(reference), self._scores(generated))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the trained blocks."""
        # Blocks only: norm and projection are shared with the frozen model.
        return dict(self._tail.blocks.named_parameters())
