"""The interface of the reward being trained."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Features = Mapping[str, Tensor]
"""What the frozen part of a discriminator makes of images; each tensor's first axis is the image,
so features can be cached, pooled and picked from."""


@runtime_checkable
class Discriminator(Protocol):
    """Tells generated images from reference images; one path serves training and rewarding."""

    fingerprint: str
    """Hash of the frozen part and of the settings that features depend on."""

    boundary: float | None
    """Reward above which an image counts as a reference image; None if only the order of rewards
    means anything."""

    def image_features(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Run the frozen part on RGB images in [0, 1]."""
        ...

    def with_prompts(self, features: Features, prompts: Sequence[str]) -> Features:
        """Set images beside prompts, one each; their own, or others to learn a mismatch from."""
        ...

    def rewards(self, features: Features) -> Float[Tensor, "batch"]:
        """Score images with their prompts: higher is more like a reference image."""
        ...

    def loss(
        self, reference: Features, generated: Features, mismatched: Features
    ) -> Float[Tensor, ""]:
        """Teach the difference.

        Args:
            reference: Reference images with their own prompts.
            generated: Generated images with their own prompts.
            mismatched: The same reference images with prompts of others.
        """
        ...

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The trained part, float32."""
        ...


def pick(features: Features, indices: Tensor | slice) -> dict[str, Tensor]:
    """Pick images from features."""
    return {name: value[indices] for name, value in features.items()}


def concatenate(parts: Sequence[Features]) -> dict[str, Tensor]:
    """Join features of several batches."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
