"""A second policy family, as small as one can be: what a family's file must contain.

Unlike Stable Diffusion 3 its embeddings differ in length, its transformer predicts image minus
noise, its schedule depends on the resolution, and its guidance keeps the norm of the prediction.
"""

import hashlib
from collections.abc import Mapping
from typing import Literal, Unpack

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models import ModelMixin
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from advgrpo.algorithm.schedule import flow_match_sigmas
from advgrpo.config.policy import AdapterConfig, PolicyConfig
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.transformer_policy import PolicyOptions, TransformerPolicy

WIDTH = 8


class ToyAdapterConfig(AdapterConfig):
    """The LoRA adapter."""

    rank: int = 2
    alpha: float = 4.0
    target_modules: tuple[str, ...] = ("words", "mix")


class ToyPolicyConfig(PolicyConfig):
    """A policy of two linear layers, in pixels."""

    type: Literal["toy"] = "toy"
    adapter: ToyAdapterConfig = ToyAdapterConfig()
    resolution_pixels: int = 32
    forward_dtype: Literal["float32"] = "float32"


class ToyTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """Mixes each pixel's colour with the mean of the prompt's words."""

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Linear(3 + WIDTH + 1, 3)

    def forward(self, pixels: Tensor, sigma: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        weight = mask[..., None].float()
        prompt = (self.words(words).tanh() * weight).sum(dim=1) / weight.sum(dim=1)
        condition = torch.cat([prompt, sigma[:, None]], dim=1)[:, None, None].expand(
            -1, *pixels.shape[2:], -1
        )
        mixed: Tensor = self.mix(torch.cat([pixels.movedim(1, -1), condition], dim=-1))
        return mixed.movedim(-1, 1)


class ToyTextEncoders:
    """One vector per word, drawn from the word's hash."""

    def __init__(self, config: ToyPolicyConfig, device: torch.device) -> None:
        self.config, self.device = config, device

    def encode(self, prompt: str) -> PromptEmbeddings:
        digests = [hashlib.sha256(word.encode()).digest() for word in prompt.split() or [""]]
        words = torch.tensor([list(digest[:WIDTH]) for digest in digests])
        return PromptEmbeddings(({"words": words / 255 - 0.5},))

    def fingerprint(self) -> str:
        return hashlib.sha256(b"toy").hexdigest()

    def release(self) -> None:
        pass


class ToyPolicy(TransformerPolicy):
    """A policy of two linear layers, in pixels."""

    text_encoders = ToyTextEncoders
    unconditional_prompt = "nothing"

    def __init__(
        self, config: ToyPolicyConfig, device: torch.device, **options: Unpack[PolicyOptions]
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            transformer = ToyTransformer().requires_grad_(False)
        shape = (3, config.resolution_pixels, config.resolution_pixels)
        super().__init__(config, device, transformer, nn.Identity(), shape, **options)

    def _longest_embedding(self) -> Mapping[str, tuple[int, ...]]:
        return {"words": (8, WIDTH)}

    def sigmas(self, num_inference_steps: int) -> Tensor:
        return flow_match_sigmas(num_inference_steps, shift=self.config.resolution_pixels / 16)

    def _predict(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
        words = embeddings.tensors("words")
        mask = pad_sequence([torch.ones(len(each)) for each in words], batch_first=True)
        padded = pad_sequence(words, batch_first=True)
        sigmas = torch.full((len(latents),), sigma)
        return -self.forward_module(latents, sigmas, padded, mask)

    def _guide(self, unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
        guided = super()._guide(unconditional, conditional, guidance_scale)
        return guided * (conditional.norm(dim=1, keepdim=True) / guided.norm(dim=1, keepdim=True))

    def _decode(self, latents: Tensor) -> Tensor:
        return latents

    def _encode(self, images: Tensor) -> Tensor:
        return images
