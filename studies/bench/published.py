"""Policies of published shapes without their weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    ZImageTransformer2DModel,
)
from torch import nn

from advgrpo.config.policy import PolicyConfig
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.loading import policy_class
from advgrpo.models.policies.pipeline_parts import DTYPES, PipelineParts
from advgrpo.models.policies.transformer_policy import TransformerPolicy
from advgrpo.models.published import PUBLISHED
from studies.bench.shapes import autoencoder, transformer

_SD3 = "hub://stabilityai/stable-diffusion-3.5-"
_SD3_VAE = PUBLISHED[f"{_SD3}medium"]["vae"]
_PROMPT_TOKENS = 64
"""Of families that do not pad prompts."""

Build = Callable[[], nn.Module]


def _sd3(size: str) -> Build:
    return lambda: transformer(PUBLISHED[_SD3 + size]["transformer"])


def _klein() -> nn.Module:
    made: nn.Module = Flux2Transformer2DModel(
        num_layers=5,
        num_single_layers=20,
        num_attention_heads=24,
        joint_attention_dim=7680,
        guidance_embeds=False,
    )
    return made


TRANSFORMERS: Mapping[str, Build] = {
    f"{_SD3}medium": _sd3("medium"),
    f"{_SD3}large": _sd3("large"),
    # The defaults of their classes are the published shapes.
    "hub://Tongyi-MAI/Z-Image": ZImageTransformer2DModel,
    "hub://Qwen/Qwen-Image": QwenImageTransformer2DModel,
    "hub://black-forest-labs/FLUX.1-dev": lambda: FluxTransformer2DModel(guidance_embeds=True),
    "hub://black-forest-labs/FLUX.2-klein-base-4B": _klein,
}
_VAES: Mapping[str, Build] = {
    "qwen_image": AutoencoderKLQwenImage,
    "flux2_klein": AutoencoderKLFlux2,
}
_EMBEDDINGS: Mapping[str, Mapping[str, int]] = {
    "sd3": {"context": 4096, "pooled": 2048},
    "z_image": {"context": 2560},
    "qwen_image": {"context": 3584},
    "flux1": {"context": 4096, "pooled": 768},
    "flux2_klein": {"context": 7680},
}
_CLIP_TOKENS = 77


def build_policy(
    config: PolicyConfig,
    device: torch.device,
    draw: Callable[[Build, torch.dtype, torch.device], nn.Module],
    transformer: Build | None = None,
    vae: Build | None = None,
) -> TransformerPolicy:
    """Build a policy of the product's own class on models that are not read from files.

    Args:
        config: The policy's settings; its location names the shapes.
        device: Device of transformer and VAE.
        draw: Gives a model its weights, if any.
        transformer: Builds the transformer; by default that of the location.
        vae: Builds the VAE; by default that of the family.
    """
    models = {
        "transformer": (transformer or TRANSFORMERS[config.weights.location], config.forward_dtype),
        "vae": (vae or _VAES.get(config.type, lambda: autoencoder(_SD3_VAE)), config.decode_dtype),
    }
    made = {name: draw(build, DTYPES[dtype], device) for name, (build, dtype) in models.items()}
    pipeline = SimpleNamespace(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
        vae_scale_factor=8,
        **{name: model.requires_grad_(False) for name, model in made.items()},
    )
    with patch.object(PipelineParts, "load_models", lambda _self, _config, _device: pipeline):
        family: Any = policy_class(config)
        policy: TransformerPolicy = family(config, device)
    return policy


def draw_embeddings(policy: TransformerPolicy, prompts: int) -> PromptEmbeddings:
    """Return random embeddings of prompts, of the family's shapes."""
    config = policy.config
    tokens = {
        "sd3": _CLIP_TOKENS + config.max_sequence_length,
        "flux1": config.max_sequence_length,
        "flux2_klein": config.max_sequence_length,
    }.get(config.type, _PROMPT_TOKENS)
    each = {
        name: torch.randn(
            (tokens, width) if name == "context" else (width,),
            device=policy.device,
            dtype=policy.dtype,
        )
        for name, width in _EMBEDDINGS[config.type].items()
    }
    return PromptEmbeddings((each,) * prompts)


@contextmanager
def without_prompts(policy: TransformerPolicy) -> Iterator[None]:
    """Take random embeddings wherever the policy would encode a prompt."""
    with patch.object(policy, "embed", lambda prompts: draw_embeddings(policy, len(prompts))):
        yield
