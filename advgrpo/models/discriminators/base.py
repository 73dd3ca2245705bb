"""Interface of the discriminators."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Features = Mapping[str, Tensor]
"""Outputs of the frozen part of a discriminator, by name. The first axis of each is the image, so
features can be cached, pooled and indexed."""


@runtime_checkable
class Discriminator(Protocol):
    """A classifier of generated and reference images; loss and rewards use the same features."""

    fingerprint: str
    """Hash of the frozen part and of the settings that features depend on."""

    frozen_fingerprint: str
    """Hash of all frozen parts that the trained part depends on: also of what encodes prompts."""

    boundary: float | None
    """Reward above which an image counts as a reference image; None if only the order of rewards
    has a meaning."""

    def image_features(self, images: Float[Tensor, "batch 3 height width"]) -> Features:
        """Run the frozen part on RGB images in [0, 1]."""
        ...

    def with_prompts(self, features: Features, prompts: Sequence[str]) -> Features:
        """Add one prompt per image: its own, or another one as an example of a mismatch."""
        ...

    def rewards(self, features: Features) -> Float[Tensor, "batch"]:
        """Score images with their prompts; higher is more like a reference image."""
        ...

    def loss(
        self, reference: Features, generated: Features, mismatched: Features
    ) -> Float[Tensor, ""]:
        """Compute the loss that separates reference images from generated ones.

        Args:
            reference: Reference images with their own prompts.
            generated: Generated images with their own prompts.
            mismatched: The same reference images with prompts of other images.
        """
        ...

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters of the trained part, float32, by name."""
        ...


def pick(features: Features, indices: Tensor | slice) -> dict[str, Tensor]:
    """Select images from features."""
    return {name: value[indices] for name, value in features.items()}


def concatenate(parts: Sequence[Features]) -> dict[str, Tensor]:
    """Concatenate the features of several batches."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
