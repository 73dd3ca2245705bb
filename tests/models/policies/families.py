"""Tiny pipelines of all families but Stable Diffusion 3, with random weights."""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxImg2ImgPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    ModelMixin,
    QwenImageImg2ImgPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImageImg2ImgPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from advgrpo.config.base import Weights
from advgrpo.config.policy import (
    Flux1PolicyConfig,
    Flux2KleinPolicyConfig,
    PolicyConfig,
    QwenImagePolicyConfig,
    ZImagePolicyConfig,
)
from advgrpo.pocket import models
from advgrpo.pocket.tokenizers import build_clip_tokenizer, build_t5_tokenizer

CHANNELS = 4
"""Of the latents of every family."""

_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def _letters() -> dict[str, int]:
    letters = [*string.ascii_letters, *string.digits, *string.punctuation, "Ġ", "Ċ"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return {piece: i for i, piece in enumerate(letters + special)}


def _tokenizer() -> Qwen2Tokenizer:
    """Tokens are letters, so each prompt has another length."""
    tokenizer = Qwen2Tokenizer(vocab=_letters(), merges=[], pad_token="<|endoftext|>")
    tokenizer.chat_template = _CHAT
    return tokenizer


def _qwen3(layers: int) -> Qwen3Config:
    return Qwen3Config(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        vocab_size=len(_letters()),
        # Wide enough that the layers of so small a model change the embeddings of its tokens.
        initializer_range=0.3,
    )


def _vae(kind: type = AutoencoderKL, **settings: object) -> ModelMixin:
    return kind(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=4,
        **settings,
    )


def _louder(transformer: ModelMixin) -> ModelMixin:
    """Scale the weights until prompt and guidance change the image by more than rounding."""
    with torch.no_grad():
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.5)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return transformer.eval()


def build_z_image() -> ZImagePipeline:
    transformer = ZImageTransformer2DModel(
        in_channels=CHANNELS,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
    )
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(scaling_factor=0.36, shift_factor=0.12).eval(),
        text_encoder=Qwen3Model(_qwen3(3)).eval(),
        tokenizer=_tokenizer(),
        transformer=_louder(transformer),
    )


def build_qwen_image() -> QwenImagePipeline:
    vocabulary = _letters()
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "vocab_size": len(vocabulary),
        "bos_token_id": vocabulary["<|endoftext|>"],
        "eos_token_id": vocabulary["<|im_end|>"],
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    transformer = QwenImageTransformer2DModel(
        in_channels=4 * CHANNELS,
        out_channels=CHANNELS,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_image_seq_len=4,
            max_image_seq_len=64,
            max_shift=0.9,
            shift_terminal=0.02,
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=24,
            z_dim=CHANNELS,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 1.0, 0.7, 2.0],
        ).eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision)
        ).eval(),
        tokenizer=_tokenizer(),
        transformer=_louder(transformer),
    )


def build_flux1() -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * models.TEXT_WIDTH,
        pooled_projection_dim=models.TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64
        ),
        vae=_vae(scaling_factor=0.36, shift_factor=0.12).eval(),
        text_encoder=CLIPTextModel(models.build_clip_text_encoder().config).eval(),
        text_encoder_2=models.build_t5_encoder().eval(),
        tokenizer=build_clip_tokenizer(),
        tokenizer_2=build_t5_tokenizer(),
        transformer=_louder(transformer),
    )


def build_flux2_klein() -> Flux2KleinPipeline:
    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=4 * CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = _vae(AutoencoderKLFlux2)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae.eval(),
        # The pipeline takes its layers 9, 18 and 27.
        text_encoder=Qwen3ForCausalLM(_qwen3(28)).eval(),
        tokenizer=_tokenizer(),
        transformer=_louder(transformer),
    )


@dataclass(frozen=True)
class Family:
    """A family, and how its own pipeline is called."""

    name: str
    build: Callable[[], DiffusionPipeline]
    image_to_image: type[DiffusionPipeline]
    """The pipeline of the same parts that takes an image."""

    config: type[PolicyConfig]
    max_sequence_length: int
    unguided: float
    guided: float
    guidance_argument: str = "guidance_scale"
    negative_prompt: str | None = None
    packs: bool = False
    """Whether the pipeline takes packed latents."""

    def save(self, folder: Path) -> Path:
        with models.seeded(0):
            self.build().save_pretrained(folder)
        return folder

    def settings(self, folder: Path, pixels: int = 16, **changes: object) -> PolicyConfig:
        settings = {
            "type": self.name,
            "weights": Weights(location=str(folder)),
            "adapter": {"rank": 4, "alpha": 6},
            "resolution_pixels": pixels,
            "forward_dtype": "float32",
            "max_sequence_length": self.max_sequence_length,
        }
        return self.config.model_validate({**settings, **changes})

    def draw(
        self,
        pipeline: DiffusionPipeline,
        prompts: Sequence[str],
        latents: torch.Tensor,
        guidance: float,
    ) -> torch.Tensor:
        """Draw with the pipeline alone, in 3 steps."""
        pipeline.set_progress_bar_config(disable=True)
        count, channels, *sides = latents.shape
        pixels = 2 * sides[0] * (1 if channels == CHANNELS else 2)
        if self.packs:
            latents = pipeline._pack_latents(latents, count, channels, *sides)
        if self.negative_prompt is None:
            negative = {}
        else:
            negative = {"negative_prompt": [self.negative_prompt] * count}
        images: torch.Tensor = pipeline(
            prompt=list(prompts),
            latents=latents,
            num_inference_steps=3,
            height=pixels,
            width=pixels,
            max_sequence_length=self.max_sequence_length,
            output_type="pt",
            **{self.guidance_argument: guidance},
            **negative,
        ).images
        return images


FAMILIES = [
    Family(
        "z_image",
        build_z_image,
        ZImageImg2ImgPipeline,
        ZImagePolicyConfig,
        96,
        0.0,
        2.5,
        negative_prompt="",
    ),
    Family(
        "qwen_image",
        build_qwen_image,
        QwenImageImg2ImgPipeline,
        QwenImagePolicyConfig,
        # The pipeline's template alone has two hundred letters.
        320,
        1.0,
        4.0,
        guidance_argument="true_cfg_scale",
        negative_prompt=" ",
        packs=True,
    ),
    Family("flux1", build_flux1, FluxImg2ImgPipeline, Flux1PolicyConfig, 10, 1.0, 8.0, packs=True),
    Family(
        "flux2_klein",
        build_flux2_klein,
        Flux2KleinPipeline,
        Flux2KleinPolicyConfig,
        96,
        1.0,
        4.0,
    ),
]
