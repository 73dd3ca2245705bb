"""Configurations of published models, from the `config.json` of their repositories."""

from collections.abc import Mapping
from typing import Any

Shape = Mapping[str, Any]


def _transformers(kind: str, **config: object) -> dict[str, Any]:
    return {"architectures": [kind], **config}


_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_T5_XXL = _transformers(
    "T5EncoderModel",
    d_model=4096,
    d_kv=64,
    num_heads=64,
    d_ff=10240,
    num_layers=24,
    vocab_size=32128,
    feed_forward_proj="gated-gelu",
)
_SD3_TEXT_ENCODERS: Mapping[str, Shape] = {
    "text_encoder": _transformers("CLIPTextModelWithProjection", **_CLIP_L, projection_dim=768),
    "text_encoder_2": _transformers(
        "CLIPTextModelWithProjection",
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
    ),
    "text_encoder_3": _T5_XXL,
}
_SD3_VAE: Shape = {
    "_class_name": "AutoencoderKL",
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_CLIP_H: Shape = {
    "model_type": "clip",
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
}


def _sd3(layers: int, **transformer: object) -> dict[str, Shape]:
    return {
        "transformer": {
            "_class_name": "SD3Transformer2DModel",
            "num_layers": layers,
            "num_attention_heads": layers,
            "caption_projection_dim": 64 * layers,
            "qk_norm": "rms_norm",
            **transformer,
        },
        "vae": _SD3_VAE,
        **_SD3_TEXT_ENCODERS,
    }


_HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}


def _qwen3_4b(kind: str) -> Shape:
    size = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}
    return _transformers(kind, **size, **_HEADS, tie_word_embeddings=True)


_Z_IMAGE: Mapping[str, Shape] = {
    # Its shapes are the defaults of diffusers.
    "transformer": {"_class_name": "ZImageTransformer2DModel"},
    "vae": _SD3_VAE,
    "text_encoder": _qwen3_4b("Qwen3Model"),
}
_QWEN_IMAGE: Mapping[str, Shape] = {
    # As are these.
    "transformer": {"_class_name": "QwenImageTransformer2DModel"},
    "vae": {"_class_name": "AutoencoderKLQwenImage", "temperal_downsample": [False, True, True]},
    "text_encoder": _transformers(
        "Qwen2_5_VLForConditionalGeneration",
        text_config={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        vision_config={"hidden_size": 1280, "out_hidden_size": 3584},
        tie_word_embeddings=False,
    ),
}


def _flux1(*, guidance: bool) -> dict[str, Shape]:
    return {
        # The distilled guidance of [dev] is an additional input.
        "transformer": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": guidance},
        "vae": _SD3_VAE,
        "text_encoder": _transformers("CLIPTextModel", **_CLIP_L),
        "text_encoder_2": _T5_XXL,
    }


def _klein(layers: int, single: int, heads: int, text_encoder: Shape) -> dict[str, Shape]:
    return {
        "transformer": {
            "_class_name": "Flux2Transformer2DModel",
            "num_layers": layers,
            "num_single_layers": single,
            "num_attention_heads": heads,
            # Three layers of the text encoder side by side.
            "joint_attention_dim": 3 * text_encoder["hidden_size"],
            "guidance_embeds": False,
        },
        "vae": {"_class_name": "AutoencoderKLFlux2"},
        "text_encoder": text_encoder,
    }


_KLEIN_4B = _klein(5, 20, 24, _qwen3_4b("Qwen3ForCausalLM"))
_KLEIN_9B = _klein(
    8,
    24,
    32,
    _transformers(
        "Qwen3ForCausalLM",
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        **_HEADS,
        tie_word_embeddings=False,
    ),
)


def _dino(width: int, layers: int) -> dict[str, Shape]:
    size = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    return {"": {"model_type": "dinov2", **size, "image_size": 518}}


def _registers(width: int, layers: int) -> dict[str, Shape]:
    # The library's default patch size for this class is 16, unlike for DINOv2.
    shape = _dino(width, layers)[""]
    return {"": {**shape, "model_type": "dinov2_with_registers", "patch_size": 14}}


def _dino3(width: int, layers: int) -> dict[str, Shape]:
    return {
        "": {
            "model_type": "dinov3_vit",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 64,
            "num_register_tokens": 4,
        }
    }


def _siglip(kind: str, **vision: int) -> dict[str, Shape]:
    return {"": {"model_type": kind, "vision_config": vision}}


_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 384,
}

PUBLISHED: Mapping[str, Mapping[str, Shape]] = {
    "hub://stabilityai/stable-diffusion-3.5-medium": _sd3(
        24, dual_attention_layers=tuple(range(13)), pos_embed_max_size=384
    ),
    "hub://stabilityai/stable-diffusion-3.5-large": _sd3(38, pos_embed_max_size=192),
    "hub://Tongyi-MAI/Z-Image": _Z_IMAGE,
    "hub://Tongyi-MAI/Z-Image-Turbo": _Z_IMAGE,
    "hub://Qwen/Qwen-Image": _QWEN_IMAGE,
    "hub://black-forest-labs/FLUX.1-dev": _flux1(guidance=True),
    "hub://black-forest-labs/FLUX.1-schnell": _flux1(guidance=False),
    "hub://black-forest-labs/FLUX.2-klein-4B": _KLEIN_4B,
    "hub://black-forest-labs/FLUX.2-klein-base-4B": _KLEIN_4B,
    "hub://black-forest-labs/FLUX.2-klein-9B": _KLEIN_9B,
    "hub://black-forest-labs/FLUX.2-klein-base-9B": _KLEIN_9B,
    "hub://facebook/dinov2-small": _dino(384, 12),
    "hub://facebook/dinov2-base": _dino(768, 12),
    "hub://facebook/dinov2-large": _dino(1024, 24),
    "hub://facebook/dinov2-with-registers-base": _registers(768, 12),
    "hub://facebook/dinov2-with-registers-large": _registers(1024, 24),
    "hub://facebook/dinov3-vits16-pretrain-lvd1689m": _dino3(384, 12),
    "hub://facebook/dinov3-vitb16-pretrain-lvd1689m": _dino3(768, 12),
    "hub://facebook/dinov3-vitl16-pretrain-lvd1689m": _dino3(1024, 24),
    "hub://google/siglip-base-patch16-224": _siglip("siglip"),
    "hub://google/siglip-so400m-patch14-384": _siglip("siglip", **_SO400M),
    # Fixed-resolution models of SigLIP 2 have the architecture and the `model_type` of SigLIP.
    "hub://google/siglip2-base-patch16-224": _siglip("siglip"),
    "hub://google/siglip2-so400m-patch14-384": _siglip("siglip", **_SO400M),
    "hub://google/siglip2-base-patch16-naflex": _siglip("siglip2"),
    # Its shapes are the defaults of transformers.
    "hub://openai/clip-vit-base-patch32": {"": {"model_type": "clip"}},
    "hub://openai/clip-vit-large-patch14": {
        "": {
            "model_type": "clip",
            "projection_dim": 768,
            "text_config": _CLIP_L,
            "vision_config": {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "patch_size": 14,
            },
        }
    },
    "hub://laion/CLIP-ViT-H-14-laion2B-s32B-b79K": {"": _CLIP_H},
    # PickScore was fine-tuned from CLIP ViT-H/14.
    "hub://yuvalkirstain/PickScore_v1": {"": _CLIP_H},
}
"""Location -> folder inside it, empty for its root -> configuration without the library's defaults.
Independent of the commit, which may change weights but not shapes."""
