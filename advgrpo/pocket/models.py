"""The pocket models: tiny configurations of classes of diffusers and transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    T5Config,
    T5EncoderModel,
)

from advgrpo.pocket.pictures import RESOLUTION_PIXELS
from advgrpo.pocket.tokenizers import (
    CLIP_LENGTH,
    T5_LENGTH,
    build_clip_tokenizer,
    build_t5_tokenizer,
)

WEIGHTS_PATH = Path(__file__).parent / "weights"
LATENT_CHANNELS = 8
LATENT_SIZE = 8
POLICY_WIDTH = 128
POLICY_LAYERS = 4
HEAD_WIDTH = 32
TEXT_WIDTH = 32
NARROW_INITIALIZER_RANGE = 0.1
"""The usual 0.02 suits widths near 768; in narrow models it hides the position embeddings."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed weight initialization within the context, and restore the global random state."""
    # No devices, because weights are initialized on the CPU; forking GPU states would initialize
    # CUDA.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build_vae() -> AutoencoderKL:
    """Build the autoencoder: 32 x 32 pixels to 8 channels of 8 x 8."""
    widths = (16, 32, 32)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=RESOLUTION_PIXELS,
        # As in the VAE of SD3, which has no convolutions around the latents.
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
        # Placeholders: both factors are computed from latents of the trained autoencoder.
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def build_transformer() -> SD3Transformer2DModel:
    """Build the policy's transformer, of 16 image tokens."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=POLICY_LAYERS,
        attention_head_dim=HEAD_WIDTH,
        num_attention_heads=POLICY_WIDTH // HEAD_WIDTH,
        caption_projection_dim=POLICY_WIDTH,
        # The pipeline concatenates both CLIP embeddings and pads them to the width of T5, so T5
        # must be at least as wide as both.
        joint_attention_dim=2 * TEXT_WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        # In patches of 2 x 2 latents.
        pos_embed_max_size=LATENT_SIZE // 2,
        qk_norm="rms_norm",
    )


def _text_config(width: int) -> CLIPTextConfig:
    tokenizer = build_clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        # The model finds the end token by this id. With the default of another vocabulary it would
        # pool at a wrong token.
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_clip_text_encoder() -> CLIPTextModelWithProjection:
    """Build one of the two CLIP text encoders."""
    return CLIPTextModelWithProjection(_text_config(TEXT_WIDTH))


def build_t5_encoder() -> T5EncoderModel:
    """Build the T5 encoder, as wide as the two CLIP encoders side by side."""
    config = T5Config(
        vocab_size=len(build_t5_tokenizer()),
        d_model=2 * TEXT_WIDTH,
        d_kv=16,
        d_ff=4 * TEXT_WIDTH,
        num_layers=1,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=T5_LENGTH,
        # The default of T5 is 0.1.
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def build_pipeline(seed: int) -> StableDiffusion3Pipeline:
    """Build the whole text-to-image pipeline with untrained weights.

    Args:
        seed: Determines every weight, regardless of the global random state.

    Returns:
        A pipeline in evaluation mode, float32.
    """
    with seeded(seed):
        modules = {
            "transformer": build_transformer().eval(),
            "vae": build_vae().eval(),
            "text_encoder": build_clip_text_encoder().eval(),
            "text_encoder_2": build_clip_text_encoder().eval(),
            "text_encoder_3": build_t5_encoder().eval(),
        }
    return StableDiffusion3Pipeline(
        **modules,
        tokenizer=build_clip_tokenizer(),
        tokenizer_2=build_clip_tokenizer(),
        tokenizer_3=build_t5_tokenizer(),
        # Shift 1 instead of 3: shifting compensates for large images, and these latents are 8 x 8.
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
    )


def build_dino(seed: int) -> Dinov2Model:
    """Build the vision backbone of the discriminator: 64 patches of 4 pixels."""
    config = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        mlp_ratio=3,
        image_size=RESOLUTION_PIXELS,
        patch_size=4,
        layerscale_value=1.0,
        initializer_range=NARROW_INITIALIZER_RANGE,
    )
    with seeded(seed):
        return Dinov2Model(config).eval()


def build_pickscore(seed: int) -> CLIPModel:
    """Build the pocket PickScore: a CLIP model whose cosine rates an image for its prompt."""
    width = 40
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=RESOLUTION_PIXELS,
        patch_size=4,
        initializer_range=NARROW_INITIALIZER_RANGE,
    )
    config = CLIPConfig(
        text_config=_text_config(width).to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=width,
    )
    with seeded(seed):
        return CLIPModel(config).eval()
