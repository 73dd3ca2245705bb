"""Settings of the model being trained, and of its sampling."""

from typing import Annotated, Literal

from pydantic import Field

from advgrpo.config.base import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Weights,
)

JOINT_ATTENTION = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
)
"""Attention over image and text, by the names of several transformers of diffusers."""


class AdapterConfig(Section):
    """The LoRA adapter."""

    # Rank and alpha of the released code.
    rank: PositiveInt = 32
    """Rank of each low-rank update."""

    alpha: PositiveFloat = 64.0
    """Scale; the update is multiplied by alpha / rank."""

    target_modules: tuple[str, ...]
    """Modules of the transformer that get an update, matched by the end of their names."""

    initial_adapter: Weights | None = None
    """An adapter in peft's layout to start from, such as the published ones; without it
    training starts from the base model. Rank, alpha and modules must be those of this section."""

    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Upper limit of the moving average's decay, which is min((1+s)/(10+s), limit) at optimizer
    step s."""


class PolicyConfig(Section):
    """A flow model with an adapter: the settings that all families have."""

    type: str
    """The model's family."""

    weights: Weights
    """The pipeline in diffusers' layout."""

    adapter: AdapterConfig
    """The LoRA adapter."""

    resolution_pixels: PositiveInt = 512
    """Height and width of generated images."""

    forward_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the transformer's forward pass. Latents and step maths are float32."""

    # peft's own way, float32, casts every activation, and its products are float32, too.
    adapter_dtype: Literal["auto", "float32"] = "auto"
    """Precision in which the adapter computes: that of the forward pass, or float32. Its weights
    and their updates are float32 either way."""

    quantization: Literal["none", "int8"] = "none"
    """Whether the transformer's frozen weights are loaded in 8 bits: half the memory of bfloat16,
    and slower. The adapter is trained on what they round to and is for these weights. Needs the
    extra `quantize` (torchao) and `training.engine=ddp`."""

    decode_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the VAE."""

    decode_batch_size: PositiveInt | None = None
    """Images that the VAE decodes or encodes at once; its largest feature maps have the image's
    size. Default: as many as are sampled at once."""

    max_sequence_length: PositiveInt = 512
    """Most tokens of a prompt that its last text encoder sees."""

    text_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the text encoders; bfloat16 takes half the memory."""

    text_device: Literal["cpu", "gpu"] = "cpu"
    """Device on which a task encodes its prompts before it loads its models. On GPUs, separate
    processes do it and exit; a machine without a GPU uses its CPU. Large encoders such as T5-XXL
    take seconds per prompt on a CPU."""

    guidance: Literal["auto", "one_batch", "two_passes"] = "auto"
    """Whether the guided and the unguided prediction are computed in one batch or in two passes:
    `auto` is one batch unless a training fits into a GPU with two passes only. Two passes halve the
    memory of a microbatch's activations, except in an update without gradient checkpointing, which
    stores those of both."""

    # Recomputed activations are bit-equal in float32, so the ratio before the first step stays 1.
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the update: less memory, about a third more time. `auto` does so if
    a training does not fit into a GPU otherwise."""

    def guidance_passes(self, guidance_scale: float) -> int:
        """Return how often the transformer predicts an image in a denoising step: 2 if guided.

        Args:
            guidance_scale: In the convention of the family's pipeline.
        """
        # At a scale of 1 the unguided prediction cancels, so it is not computed.
        return 1 if guidance_scale == 1 else 2


class Sd3AdapterConfig(AdapterConfig):
    """The LoRA adapter."""

    # As in the released code, which does not adapt the second attention (`attn2`) of SD3.5 medium.
    target_modules: tuple[str, ...] = JOINT_ATTENTION
    """Modules of the transformer that get an update, matched by the end of their names."""


class Sd3PolicyConfig(PolicyConfig):
    """A Stable Diffusion 3 model with an adapter."""

    type: Literal["sd3"] = "sd3"

    adapter: Sd3AdapterConfig = Sd3AdapterConfig()

    max_sequence_length: PositiveInt = 256
    """Tokens that the T5 encoder sees of a prompt."""


class ZImageAdapterConfig(AdapterConfig):
    """The LoRA adapter."""

    target_modules: tuple[str, ...] = (
        "attention.to_q",
        "attention.to_k",
        "attention.to_v",
        "attention.to_out.0",
    )
    """Modules of the transformer that get an update, matched by the end of their names."""


class ZImagePolicyConfig(PolicyConfig):
    """A Z-Image model with an adapter."""

    type: Literal["z_image"]

    adapter: ZImageAdapterConfig = ZImageAdapterConfig()

    # The transformer has positions for 1024 tokens, which it pads to multiples of 32.
    max_sequence_length: Annotated[int, Field(gt=0, le=992)] = 512
    """Most tokens of a prompt, with its chat template, that the text encoder sees."""

    def guidance_passes(self, guidance_scale: float) -> int:
        """Return how often the transformer predicts an image in a denoising step: 2 if guided."""
        return 1 if guidance_scale == 0 else 2


class JointAdapterConfig(AdapterConfig):
    """The LoRA adapter."""

    target_modules: tuple[str, ...] = JOINT_ATTENTION
    """Modules of the transformer that get an update, matched by the end of their names."""


class QwenImagePolicyConfig(PolicyConfig):
    """A Qwen-Image model with an adapter."""

    type: Literal["qwen_image"]

    adapter: JointAdapterConfig = JointAdapterConfig()

    max_sequence_length: Annotated[int, Field(gt=0, le=1024)] = 512
    """Most tokens of a prompt that the transformer sees."""

    def guidance_passes(self, guidance_scale: float) -> int:
        """Return how often the transformer predicts an image in a denoising step: 2 if guided."""
        return 1 if guidance_scale <= 1 else 2


class Flux1PolicyConfig(PolicyConfig):
    """A FLUX.1 model with an adapter."""

    type: Literal["flux1"]

    adapter: JointAdapterConfig = JointAdapterConfig()

    max_sequence_length: Annotated[int, Field(gt=0, le=512)] = 512
    """Tokens that the T5 encoder sees of a prompt; FLUX.1 [schnell] was trained with 256."""

    def guidance_passes(self, guidance_scale: float) -> int:
        """Return how often the transformer predicts an image in a denoising step: once."""
        del guidance_scale
        return 1


class Flux2KleinAdapterConfig(AdapterConfig):
    """The LoRA adapter."""

    target_modules: tuple[str, ...] = (*JOINT_ATTENTION, "attn.to_qkv_mlp_proj")
    """Modules of the transformer that get an update, matched by the end of their names."""


class Flux2KleinPolicyConfig(PolicyConfig):
    """A FLUX.2 [klein] model with an adapter."""

    type: Literal["flux2_klein"]

    adapter: Flux2KleinAdapterConfig = Flux2KleinAdapterConfig()

    max_sequence_length: Annotated[int, Field(gt=0, le=512)] = 512
    """Tokens of a prompt, with its chat template, that the text encoder sees."""

    def guidance_passes(self, guidance_scale: float) -> int:
        """Return how often the transformer predicts an image in a denoising step: 2 if guided."""
        return 1 if guidance_scale <= 1 else 2


AnyPolicyConfig = Annotated[
    Sd3PolicyConfig
    | ZImagePolicyConfig
    | QwenImagePolicyConfig
    | Flux1PolicyConfig
    | Flux2KleinPolicyConfig,
    Field(discriminator="type"),
]
"""Settings of any family."""


class SamplingConfig(Section):
    """How images are sampled in training."""

    # Steps and guidance of the released code.
    num_inference_steps: PositiveInt = 10
    """Steps from noise to image."""

    guidance_scale: NonNegativeFloat = 4.5
    """Weight of the guidance, in rollout and update alike, as the family's pipeline of diffusers
    takes it: 1 switches classifier-free guidance off, for Z-Image 0 does."""
