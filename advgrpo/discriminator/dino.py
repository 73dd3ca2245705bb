"""A head on the tokens of a frozen DINOv2.

Deviations from the released code: one path of features serves training and rewarding (there, the
head is trained on raw tokens and scored on normalized ones); patches are a fixed choice, so an
image has one reward; the head may see the prompt.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from advgrpo.algorithm.discriminator_loss import conditional_hinge_loss, hinge_loss
from advgrpo.algorithm.randomness import generator_for
from advgrpo.backbones.clip import ClipTextEncoder
from advgrpo.backbones.dino import DinoBackbone
from advgrpo.config import DinoDiscriminatorConfig
from advgrpo.discriminator.base import Features
from advgrpo.errors import ConfigError


class DinoHead(nn.Module):
    """`Linear, GELU, Linear` on each token, plus a projection on the prompt if there is one.

    Args:
        width: Of a token.
        hidden_width: Of the hidden layer.
        prompt_width: Of a prompt embedding; 0 for a head that does not see the prompt.
        seed: Of the start values.

    Source:
        Adv-GRPO, arXiv:2511.20256; the projection is that of arXiv:1802.05637.
    """

    def __init__(self, width: int, hidden_width: int, prompt_width: int, *, seed: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden_width)
        self.output = nn.Linear(hidden_width, 1)
        self.prompt = nn.Linear(prompt_width, hidden_width, bias=False) if prompt_width else None
        generator = generator_for("discriminator head", seed)
        for parameter in self.parameters():
            fan_in = parameter.shape[-1] if parameter.dim() > 1 else width
            bound = 1 / math.sqrt(fan_in)
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(
        self,
        tokens: Float[Tensor, "batch token width"],
        prompts: Float[Tensor, "batch prompt_width"] | None,
    ) -> Float[Tensor, "batch token"]:
        """Score each token."""
        hidden = functional.gelu(self.hidden(tokens))
        logits: Tensor = self.output(hidden).squeeze(-1)
        if self.prompt is None or prompts is None:
            return logits
        direction = self.prompt(functional.normalize(prompts, dim=-1))
        return logits + torch.einsum("bth,bh->bt", hidden, direction)


class DinoDiscriminator:
    """Rewards images whose DINOv2 tokens look like those of reference images.

    Args:
        config: Its settings.
        device: Where backbone and head work.
        seed: Of the head's start values and of the choice of patches.

    Raises:
        WeightsError: If the backbone or the text encoder cannot be loaded.
        ConfigError: If more patches are asked for than there are.
    """

    boundary: float | None = 0.0

    def __init__(self, config: DinoDiscriminatorConfig, device: torch.device, *, seed: int) -> None:
        self.config = config
        self.device = device
        self._backbone = DinoBackbone(
            config.weights, resolution_pixels=config.resolution_pixels, device=device
        )
        conditioning = config.prompt_conditioning
        self._text = (
            ClipTextEncoder(conditioning.text_encoder, conditioning.tokenizer, device)
            if conditioning
            else None
        )
        self._positions = self._patch_positions()
        prompt_width = self._text.width if self._text else 0
        self.head = DinoHead(self._backbone.width, config.hidden_width, prompt_width, seed=seed).to(
            device
        )
        choice = f"{self._backbone.fingerprint}:{config.patches}:{config.token_normalization}"
        self.fingerprint = hashlib.sha256(choice.encode()).hexdigest()

    def _patch_positions(self) -> Int[Tensor, "patch"]:
        count = self._backbone.patches
        chosen = count if self.config.patches is None else self.config.patches
        if chosen > count:
            raise ConfigError(
                f"discriminator.patches={chosen}, but an image has {count} patches",
                repair=f"set it to at most {count}, or to null for all",
            )
        order = torch.randperm(count, generator=generator_for("patches", count))
        return order[:chosen].sort().values

    def image_features(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Run the frozen backbone and keep the class token and the chosen patches.

        Returns:
            `tokens`: float32 `[batch, 1 + patches, width]`, on the discriminator's device.
        """
        keep = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + self._positions])
        parts = []
        for batch in images.split(self.config.feature_batch_size):
            tokens = self._backbone.tokens(batch)[:, keep].float()
            if self.config.token_normalization == "l2":
                tokens = functional.normalize(tokens, dim=-1)
            parts.append(tokens)
        return {"tokens": torch.cat(parts)}

    def with_prompts(self, features: Features, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Add `prompt` embeddings if the head sees prompts."""
        if self._text is None:
            return {"tokens": features["tokens"]}
        return {"tokens": features["tokens"], "prompt": self._text.embed(prompts)}

    def _logits(self, features: Features) -> Float[Tensor, "batch token"]:
        logits: Tensor = self.head(features["tokens"].to(self.device), features.get("prompt"))
        return logits

    @torch.no_grad()
    def rewards(self, features: Features) -> Float[Tensor, "batch"]:
        """Weigh the class token's logit against the mean of the patches' logits."""
        logits = self._logits(features)
        return self.config.cls_reward_weight * logits[
            :, 0
        ] + self.config.patch_reward_weight * logits[:, 1:].mean(dim=1)

    def loss(
        self, reference: Features, generated: Features, mismatched: Features
    ) -> Float[Tensor, ""]:
        """Hinge loss of the class token and, with its own weight, of the patches."""
        real, fake = self._logits(reference), self._logits(generated)
        conditioning = self.config.prompt_conditioning
        other = self._logits(mismatched) if conditioning else None

        def hinge(tokens: slice) -> Tensor:
            if conditioning is None or other is None:
                return hinge_loss(real[:, tokens], fake[:, tokens])
            return conditional_hinge_loss(
                real[:, tokens],
                fake[:, tokens],
                other[:, tokens],
                mismatched_fraction=conditioning.mismatched_fraction,
            )

        return self.config.cls_loss_weight * hinge(
            slice(0, 1)
        ) + self.config.patch_loss_weight * hinge(slice(1, None))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The head's parameters."""
        return dict(self.head.named_parameters())
