"""Interfaces of the model being trained, and the embeddings that condition it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.policy import AdapterConfig, PolicyConfig


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embeddings of prompts: named tensors of each prompt, in the order of the prompts.

    Tensors have no batch axis, because prompts may have different numbers of tokens. A family
    batches them as its transformer needs: `stack`, padding with a mask, or the list itself.
    """

    prompts: tuple[Mapping[str, Tensor], ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, positions: Sequence[int] | slice) -> "PromptEmbeddings":
        """Select prompts by their positions."""
        if isinstance(positions, slice):
            return PromptEmbeddings(self.prompts[positions])
        return PromptEmbeddings(tuple(self.prompts[position] for position in positions))

    def __add__(self, other: "PromptEmbeddings") -> "PromptEmbeddings":
        return PromptEmbeddings(self.prompts + other.prompts)

    def tensors(self, name: str) -> list[Tensor]:
        """Return one of the tensors of each prompt."""
        return [prompt[name] for prompt in self.prompts]

    def stack(self, name: str) -> Float[Tensor, "prompt ..."]:
        """Batch one of the tensors, which must have the same shape for all prompts."""
        return torch.stack(self.tensors(name))

    def with_tensor(self, name: str, tensor: Tensor) -> "PromptEmbeddings":
        """Add the same tensor to each prompt."""
        return PromptEmbeddings(tuple({**prompt, name: tensor} for prompt in self.prompts))

    @property
    def nbytes(self) -> int:
        """Memory of all tensors, in bytes."""
        return sum(tensor.nbytes for prompt in self.prompts for tensor in prompt.values())

    def to(self, device: torch.device, dtype: torch.dtype) -> "PromptEmbeddings":
        """Move all tensors; only floating-point ones change their type, so masks stay masks."""
        return self._map(lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "PromptEmbeddings":
        return PromptEmbeddings(
            tuple({name: change(t) for name, t in prompt.items()} for prompt in self.prompts)
        )


@runtime_checkable
class FlowModel(Protocol):
    """A text-to-image flow model, in float32 latents of `velocity = noise - image`."""

    latent_shape: tuple[int, int, int]
    """Channel, height and width of one image's latents."""

    device: torch.device

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """Return the noise schedule, which falls from 1 to 0 in `num_inference_steps` steps."""
        ...

    def embed(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """Encode prompts; each is encoded once and cached."""
        ...

    def velocity(
        self,
        latents: Float[Tensor, "batch channel height width"],
        sigma: float,
        embeddings: PromptEmbeddings,
        *,
        guidance_scale: float | None,
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict noise minus image, in float32, with the family's kind of guidance.

        Args:
            latents: At `sigma`.
            sigma: In (0, 1].
            embeddings: Of one prompt per image.
            guidance_scale: Weight of the guidance, as the family's pipeline of diffusers takes it;
                see `PolicyConfig.guidance_passes`. None switches classifier-free guidance off.
        """
        ...

    def decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode latents into RGB in [0, 1]."""
        ...

    def base_policy(self) -> AbstractContextManager[None]:
        """Disable the adapter within the context."""
        ...

    def as_in_update(self) -> AbstractContextManager[None]:
        """Round passes without gradient as those of the update, within the context.

        For passes that are compared with passes of the update.
        """
        ...


@runtime_checkable
class Policy(FlowModel, Protocol):
    """A flow model with a LoRA adapter that is trained."""

    transformer: torch.nn.Module
    """The module that carries the adapter; a training engine wraps it."""

    @property
    def config(self) -> PolicyConfig:
        """The settings that it was loaded from."""
        ...

    def encode(
        self, images: Float[Tensor, "batch 3 image_height image_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Encode RGB in [0, 1] into float32 latents at sigma 0, as `decode` takes them.

        Args:
            images: On any device.

        Returns:
            The most probable latents of each image, on the policy's device; no gradient passes.
        """
        ...

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the adapter's parameters, float32, by a name that is stable across versions."""
        ...

    def compile(self, backend: str | None) -> None:
        """Compile the transformer's layers with a backend of `torch.compile`, at the next pass."""
        ...

    def use_engine(self, engine: torch.nn.Module) -> None:
        """Route forward passes through an engine that wraps `transformer`."""
        ...

    def without_engine(self) -> AbstractContextManager[None]:
        """Route forward passes past the engine within the context."""
        ...

    def other_adapter(self, folder: Path, config: AdapterConfig) -> AbstractContextManager[None]:
        """Replace the adapter by a saved one within the context."""
        ...


@runtime_checkable
class TextEncoders(Protocol):
    """The text encoders of a policy, loaded when the first prompt is encoded."""

    # Part of the protocol, because callers construct a family's text encoders themselves.
    def __init__(self, config: Any, device: torch.device) -> None:  # noqa: ANN401
        ...

    def encode(self, prompt: str) -> PromptEmbeddings:
        """Encode one prompt, on the CPU and in the precision that the transformer takes."""
        ...

    def fingerprint(self) -> str:
        """Hash all that an embedding depends on besides the prompt."""
        ...

    def release(self) -> None:
        """Free their memory."""
        ...
