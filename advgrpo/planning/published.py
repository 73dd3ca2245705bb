"""Configurations of published models, from the `config.json` of their repositories."""

from collections.abc import Mapping
from typing import Any

_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_SD3_TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "text_encoder": {**_CLIP_L, "projection_dim": 768},
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "projection_dim": 1280,
    },
    "text_encoder_3": {
        "d_model": 4096,
        "d_kv": 64,
        "num_heads": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
    },
}
_SD3_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_CLIP_H: dict[str, Any] = {
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


def _sd3(transformer: dict[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {"transformer": transformer, "vae": _SD3_VAE, **_SD3_TEXT_ENCODERS}


def _dino(width: int, layers: int) -> dict[str, Mapping[str, Any]]:
    return {"": {"hidden_size": width, "num_hidden_layers": layers, "image_size": 518}}


def _registers(width: int, layers: int) -> dict[str, Mapping[str, Any]]:
    # The library's default patch size for this class is 16, unlike for DINOv2.
    shape = _dino(width, layers)[""]
    return {"": {"model_type": "dinov2_with_registers", "patch_size": 14, **shape}}


def _dino3(width: int, layers: int) -> dict[str, Mapping[str, Any]]:
    return {
        "": {
            "model_type": "dinov3_vit",
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_register_tokens": 4,
        }
    }


def _siglip(kind: str, **vision: int) -> dict[str, Mapping[str, Any]]:
    return {"": {"model_type": kind, "vision_config": vision}}


_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "image_size": 384,
}

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "hub://stabilityai/stable-diffusion-3.5-medium": _sd3(
        {
            "num_layers": 24,
            "num_attention_heads": 24,
            "dual_attention_layers": tuple(range(13)),
            "pos_embed_max_size": 384,
            "qk_norm": "rms_norm",
        }
    ),
    "hub://stabilityai/stable-diffusion-3.5-large": _sd3(
        {
            "num_layers": 38,
            "num_attention_heads": 38,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        }
    ),
    # Their VAE has the architecture of that of SD3; `counts` has the size of the other parts.
    "hub://Tongyi-MAI/Z-Image": {"vae": _SD3_VAE},
    "hub://Tongyi-MAI/Z-Image-Turbo": {"vae": _SD3_VAE},
    "hub://black-forest-labs/FLUX.1-dev": {"vae": _SD3_VAE},
    "hub://black-forest-labs/FLUX.1-schnell": {"vae": _SD3_VAE},
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
    "hub://openai/clip-vit-base-patch32": {"": {}},
    "hub://openai/clip-vit-large-patch14": {
        "": {
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
