"""The interface of the model being trained."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class PromptEmbeddings:
    """What the policy knows of prompts."""

    context: Float[Tensor, "prompt token width"]
    pooled: Float[Tensor, "prompt pooled_width"]


@runtime_checkable
class Policy(Protocol):
    """A flow model with an adapter, in float32 latents of `velocity = noise - image`."""

    latent_shape: tuple[int, int, int]
    """Channel, height and width of one image's latents."""

    device: torch.device

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """The noise schedule: falls from 1 to 0 in `num_inference_steps` steps."""
        ...

    def embed(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """Encode prompts; each is encoded once and remembered."""
        ...

    def velocity(
        self,
        latents: Float[Tensor, "batch channel height width"],
        sigma: float,
        embeddings: PromptEmbeddings,
        *,
        guidance_scale: float,
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict noise minus image, guided away from the empty prompt if the scale is not 1."""
        ...

    def decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode latents into RGB in [0, 1]."""
        ...

    def base_policy(self) -> AbstractContextManager[None]:
        """Within it, the adapter is off."""
        ...

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters, float32, by a name that is stable across versions."""
        ...
