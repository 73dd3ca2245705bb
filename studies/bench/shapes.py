"""Models of given shapes with random weights, drawn on the device that they run on.

Weights need not be sensible to take their time and memory, so nothing is downloaded, and the
pipeline, of 22 GB for SD3.5 medium, is never written.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    T5Config,
    T5EncoderModel,
)

from advgrpo.config.policy import PolicyConfig
from advgrpo.models.policies.pipeline_parts import DTYPES, PipelineParts
from advgrpo.models.published import PUBLISHED
from advgrpo.pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from advgrpo.storage.local import atomic_folder

M = TypeVar("M", bound=nn.Module)
Shape = Mapping[str, Any]
CLIP_TOKENS, T5_TOKENS = 77, 512
_STANDARD_DEVIATION = 0.02


@dataclass(frozen=True)
class Shapes:
    """Configurations of the models that an update runs."""

    pipeline: Mapping[str, Shape]
    """Folder of a `StableDiffusion3Pipeline` -> configuration."""

    dino: Shape


SD35_MEDIUM = Shapes(
    pipeline=PUBLISHED["hub://stabilityai/stable-diffusion-3.5-medium"],
    dino=PUBLISHED["hub://facebook/dinov2-base"][""],
)
TINY = Shapes(
    pipeline={
        "transformer": {
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 48,
            "dual_attention_layers": (0,),
            "pos_embed_max_size": 24,
            "qk_norm": "rms_norm",
        },
        "vae": {
            "block_out_channels": (8, 8),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 16,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        "text_encoder": {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16},
        "text_encoder_2": {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 32},
        "text_encoder_3": {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64, "num_layers": 1},
    },
    dino={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 42,
        "patch_size": 14,
    },
)
"""The same architecture in small, so that what builds the large one is tested on any machine."""


def save_encoders(shapes: Shapes, folder: Path, device: torch.device) -> None:
    """Save what a discriminator reads: `dino/`, `text_encoder/` and `tokenizer/`.

    Args:
        shapes: What to build.
        folder: Existing encoders in it are kept.
        device: Device that draws the weights.
    """
    if folder.exists():
        return
    with atomic_folder(folder) as fresh:
        dino = random_model(lambda: Dinov2Model(Dinov2Config(**shapes.dino)), torch.float32, device)
        dino.save_pretrained(fresh / "dino")
        text = random_model(lambda: _clip(shapes.pipeline["text_encoder"]), torch.bfloat16, device)
        text.save_pretrained(fresh / "text_encoder")
        _clip_tokenizer().save_pretrained(fresh / "tokenizer")


def draw_pipeline(shapes: Shapes, device: torch.device) -> StableDiffusion3Pipeline:
    """Draw the weights of a whole pipeline; those of two calls are equal."""
    parts, half = shapes.pipeline, torch.bfloat16
    # As long as the real ones pad to: the length of the text stream is part of the shape.
    t5 = build_t5_tokenizer()
    t5.model_max_length = T5_TOKENS
    pipeline = StableDiffusion3Pipeline(
        transformer=random_model(lambda: transformer(parts["transformer"]), half, device),
        vae=random_model(lambda: autoencoder(parts["vae"]), torch.float32, device),
        text_encoder=random_model(lambda: _clip(parts["text_encoder"]), half, device),
        text_encoder_2=random_model(lambda: _clip(parts["text_encoder_2"]), half, device),
        text_encoder_3=random_model(lambda: _t5(parts["text_encoder_3"]), half, device),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        tokenizer_3=t5,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
    )
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    return pipeline


@contextmanager
def loading_drawn(pipeline: StableDiffusion3Pipeline) -> Iterator[None]:
    """Give this pipeline, instead of files, to a policy that is loaded within the context.

    Its precisions are those of the settings, as if it was loaded.
    """

    def load_models(
        _self: PipelineParts, config: PolicyConfig, _device: torch.device
    ) -> StableDiffusion3Pipeline:
        pipeline.transformer.to(DTYPES[config.forward_dtype])
        pipeline.vae.to(DTYPES[config.decode_dtype])
        return pipeline

    with (
        patch.object(PipelineParts, "load_models", load_models),
        patch.object(PipelineParts, "check"),
    ):
        yield


def transformer(shape: Shape) -> SD3Transformer2DModel:
    """Build a transformer whose text stream is as wide as its image stream."""
    width = shape["num_attention_heads"] * shape.get("attention_head_dim", 64)
    return SD3Transformer2DModel.from_config(
        {"sample_size": 128, "out_channels": 16, **shape, "caption_projection_dim": width}
    )


def autoencoder(shape: Shape) -> AutoencoderKL:
    """Build an autoencoder with as many levels as it has widths."""
    levels = len(shape["block_out_channels"])
    return AutoencoderKL.from_config(
        {
            **shape,
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "scaling_factor": 1.5305,
            "shift_factor": 0.0609,
        }
    )


def _clip_tokenizer() -> CLIPTokenizer:
    tokenizer = build_clip_tokenizer()
    tokenizer.model_max_length = CLIP_TOKENS
    return tokenizer


def _clip(shape: Shape) -> CLIPTextModelWithProjection:
    tokenizer = build_clip_tokenizer()
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            **shape,
            max_position_embeddings=CLIP_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5(shape: Shape) -> T5EncoderModel:
    return T5EncoderModel(T5Config(**shape))


def random_model(build: Callable[[], M], dtype: torch.dtype, device: torch.device) -> M:
    """Build a model and draw its weights, equal ones in each call."""
    # Built without memory and initialized on the device: the libraries' own initialization of five
    # billion numbers takes minutes on a CPU.
    with torch.device("meta"):
        model = build()
    model = model.to(dtype).to_empty(device=device).eval()
    if isinstance(model, T5EncoderModel):
        model.tie_weights()  # its embedding goes by two names, which are now apart
    for buffer in model.buffers():
        if not buffer.is_floating_point():
            # Positions, which are not part of the state.
            buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand_as(buffer))
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if "norm" in name and name.endswith("weight"):
                value.fill_(1)
            else:
                value.normal_(std=_STANDARD_DEVIATION, generator=generator)
    return model
