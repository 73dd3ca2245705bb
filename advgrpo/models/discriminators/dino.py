"""A discriminator of heads on the tokens of a frozen vision backbone.

Deviations from the released code: training and rewarding use the same features (there, the head is
trained on raw tokens and scored on normalized ones); patches are a choice that follows from their
number alone, so an image has one reward in every run; the head may see the prompt; middle layers
may have separate heads.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from advgrpo.algorithm.discriminator_loss import (
    conditional_hinge_loss,
    gradient_penalty,
    hinge_loss,
)
from advgrpo.algorithm.randomness import generator_for
from advgrpo.algorithm.seeds import seed_for
from advgrpo.config.discriminator import DinoDiscriminatorConfig
from advgrpo.errors import ConfigError
from advgrpo.models.backbones.clip import ClipTextEncoder
from advgrpo.models.backbones.precision import frozen_products
from advgrpo.models.backbones.vision import load_vision_backbone
from advgrpo.models.discriminators.base import Features


class DinoHead(nn.Module):
    """`Linear, GELU, Linear` on each token, plus a projection on the prompt if it is given.

    Args:
        width: Dimension of a token.
        hidden_width: Dimension of the hidden layer.
        prompt_width: Dimension of a prompt embedding; 0 for a head that does not see the prompt.
        seed: Of the start values.

    Source:
        Adv-GRPO, arXiv:2511.20256; the projection is that of arXiv:1802.05637.
    """

    def __init__(self, width: int, hidden_width: int, prompt_width: int, *, seed: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden_width)
        self.output = nn.Linear(hidden_width, 1)
        self.prompt = nn.Linear(prompt_width, hidden_width, bias=False) if prompt_width else None
        # Like torch's initialization, but from a generator that depends on the seed alone.
        generator = generator_for("discriminator head", seed)
        for parameter in self.parameters():
            # All biases take the fan-in of the first layer, so the output bias has another bound
            # than in torch's own initialization.
            fan_in = parameter.shape[-1] if parameter.dim() > 1 else width
            bound = 1 / math.sqrt(fan_in)
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def forward(
        self, tokens: Float[Tensor, "batch token width"], *prompts: Float[Tensor, "batch embedding"]
    ) -> Float[Tensor, "batch token prompt"]:
        """Score each token for each of the prompts; once if the head does not see prompts."""
        hidden = functional.gelu(self.hidden(tokens))
        if self.prompt is None:
            logits: Tensor = self.output(hidden)
            return logits
        # Normalized, because lengths of CLIP embeddings vary and would scale the logit. The same
        # direction for all tokens of an image: a patch is scored against the whole prompt.
        directions = [
            self.output.weight + self.prompt(functional.normalize(prompt, dim=-1))
            for prompt in prompts
        ]
        return hidden @ torch.stack(directions, dim=-1) + self.output.bias


class DinoDiscriminator:
    """Rewards images whose backbone tokens resemble those of reference images.

    The backbone is a frozen DINOv2 or another one of `advgrpo.models.backbones.vision`. Tokens are
    taken after its last block, or after several blocks with one head each.

    Args:
        config: Its settings.
        device: Device of backbone and heads.
        seed: Of the heads' start values.

    Raises:
        WeightsError: If the backbone or the text encoder cannot be loaded.
        ConfigError: If the backbone has fewer patches or layers than the settings name.

    Source:
        Adv-GRPO, arXiv:2511.20256; independent heads on several layers of a frozen backbone as in
        StyleGAN-T, arXiv:2301.09515, and ADD, arXiv:2311.17042.
    """

    boundary: float | None = 0.0

    def __init__(self, config: DinoDiscriminatorConfig, device: torch.device, *, seed: int) -> None:
        self.config = config
        self.device = device
        self._backbone = load_vision_backbone(
            config.weights, resolution_pixels=config.resolution_pixels, device=device
        )
        conditioning = config.prompt_conditioning
        # Not part of `fingerprint`, because features of images do not depend on prompts.
        self._text = (
            ClipTextEncoder(conditioning.text_encoder, conditioning.tokenizer, device)
            if conditioning
            else None
        )
        self._positions = self._patch_positions()
        self._check_layers()
        prompt_width = self._text.width if self._text else 0

        def head(seed: int) -> DinoHead:
            width, hidden = self._backbone.width, config.hidden_width
            return DinoHead(width, hidden, prompt_width, seed=seed).to(device)

        self._heads = (
            {"tokens": head(seed)}
            if config.layers is None
            # A seed for each layer, so that heads do not start with equal weights, and a layer's
            # head does not depend on which others are chosen.
            else {f"layer_{k}": head(seed_for("layer", seed, k)) for k in config.layers}
        )
        # Only what features depend on: heads and loss weights may change without encoding again.
        choice = f"{self._backbone.fingerprint}:{config.patches}:{config.token_normalization}"
        if config.layers is not None:
            choice += f":{config.layers}"
        exact = ":float32" if config.frozen_precision == "float32" else ""
        self.fingerprint = hashlib.sha256(f"{choice}{exact}".encode()).hexdigest()
        text = self._text.fingerprint if self._text else ""
        self.frozen_fingerprint = hashlib.sha256(f"{choice}:{text}".encode()).hexdigest()

    def _patch_positions(self) -> Int[Tensor, "patch"]:
        count = self._backbone.patches
        chosen = count if self.config.patches is None else self.config.patches
        if chosen > count:
            raise ConfigError(
                f"discriminator.patches={chosen}: an image has {count} patches",
                repair=f"set discriminator.patches to at most {count}, or to null for all",
            )
        # Seeded by the count alone, because cached features hold only the chosen patches.
        order = torch.randperm(count, generator=generator_for("patches", count))
        # Sorted, so that patches stay in row order, as without a choice.
        return order[:chosen].sort().values

    def _check_layers(self) -> None:
        last = self._backbone.blocks
        if beyond := [layer for layer in self.config.layers or () if layer > last]:
            raise ConfigError(
                f"discriminator.layers: layer {beyond[0]} does not exist, the backbone has {last}",
                repair=f"set discriminator.layers to layers from 1 to {last}, or null for the last",
            )

    def image_features(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Run the frozen backbone and select the whole image's token and the chosen patches.

        Returns:
            `tokens`, or `layer_K` for each chosen layer: float32 `[batch, 1 + patches, width]`, on
            the discriminator's device.
        """
        # Position 0 is the token of the whole image.
        keep = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + self._positions])
        parts: dict[str, list[Tensor]] = {name: [] for name in self._heads}
        # Limits memory: the tokens of all patches exist only for one batch before the choice.
        for batch in images.split(self.config.feature_batch_size):
            with frozen_products(self.config.frozen_precision):
                outputs = (
                    [self._backbone.tokens(batch)]
                    if self.config.layers is None
                    else self._backbone.layer_tokens(batch, self.config.layers)
                )
            for name, all_tokens in zip(self._heads, outputs, strict=True):
                # Float32 before normalizing, as the head computes in float32.
                tokens = all_tokens[:, keep].float()
                if self.config.token_normalization == "l2":
                    # Here rather than in the head, so that training and rewarding cannot differ in
                    # it.
                    tokens = functional.normalize(tokens, dim=-1)
                parts[name].append(tokens)
        return {name: torch.cat(tokens) for name, tokens in parts.items()}

    def with_prompts(self, features: Features, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Add `prompt` embeddings if the heads see prompts."""
        tokens = {name: features[name] for name in self._heads}
        if self._text is None:
            return tokens
        return {**tokens, "prompt": self._text.embed(prompts)}

    def _logits(
        self, name: str, features: Features, *others: Features
    ) -> Float[Tensor, "batch token prompt"]:
        """Score tokens with their prompts, and with those of other features of the same images."""
        prompts = [each["prompt"] for each in (features, *others) if self._text is not None]
        logits: Tensor = self._heads[name](features[name].to(self.device), *prompts)
        return logits

    @torch.no_grad()
    def rewards(self, features: Features) -> Float[Tensor, "batch"]:
        """Return the weighted sum of the class token's logit and the patches' mean logit.

        With several heads it is their mean.
        """

        def reward(name: str) -> Tensor:
            logits = self._logits(name, features).squeeze(-1)
            # The mean keeps the weight of the patches independent of how many are chosen.
            whole, patches = logits[:, 0], logits[:, 1:].mean(dim=1)
            weights = self.config
            return weights.cls_reward_weight * whole + weights.patch_reward_weight * patches

        return self._mean_of_heads(reward)

    def loss(
        self, reference: Features, generated: Features, mismatched: Features
    ) -> Float[Tensor, ""]:
        """Return the weighted sum of the hinge losses of class token and patches.

        With several heads it is their mean.
        """
        return self._mean_of_heads(
            lambda name: self._loss_of_head(name, reference, generated, mismatched)
        )

    def _loss_of_head(
        self, name: str, reference: Features, generated: Features, mismatched: Features
    ) -> Tensor:
        fake = self._logits(name, generated)
        # One pass for both, because mismatched images are the reference images.
        real = self._logits(name, reference, mismatched)
        conditioning = self.config.prompt_conditioning

        def hinge(tokens: slice) -> Tensor:
            # Without a prompt the mismatched images would be equal to the reference images.
            if conditioning is None:
                return hinge_loss(real[:, tokens], fake[:, tokens])
            return conditional_hinge_loss(
                real[:, tokens, :1],
                fake[:, tokens],
                real[:, tokens, 1:],
                mismatched_fraction=conditioning.mismatched_fraction,
            )

        weights, whole, patches = self.config, hinge(slice(0, 1)), hinge(slice(1, None))
        loss = weights.cls_loss_weight * whole + weights.patch_loss_weight * patches
        if weights.gradient_penalty_weight:
            loss = loss + weights.gradient_penalty_weight * self._penalty(name, reference)
        return loss

    def _penalty(self, name: str, reference: Features) -> Tensor:
        # The gradient with respect to features, as the backbone is frozen.
        tokens = reference[name].to(self.device).detach().requires_grad_()
        # The prompt stays as it is: only the tokens' gradient is penalized.
        logits = self._logits(name, {**reference, name: tokens}).squeeze(-1)
        return gradient_penalty(logits, tokens)

    def _mean_of_heads(self, value: Callable[[str], Tensor]) -> Tensor:
        values = [value(name) for name in self._heads]
        return values[0] if len(values) == 1 else torch.stack(values).mean(dim=0)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the heads' parameters; with several heads, names begin with the layer."""
        if self.config.layers is None:
            # Without a prefix, as in saved discriminators.
            return dict(self._heads["tokens"].named_parameters())
        return {
            f"{name}.{parameter}": value
            for name, head in self._heads.items()
            for parameter, value in head.named_parameters()
        }
