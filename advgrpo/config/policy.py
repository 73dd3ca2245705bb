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
    """Precision of the transformer's forward pass. Adapter, latents and step maths are float32."""

    decode_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the VAE's decoder."""

    decode_batch_size: PositiveInt | None = None
    """Images that the VAE decodes at once; its largest feature maps have the image's size. Default:
    as many as are sampled at once."""

    max_sequence_length: PositiveInt = 512
    """Most tokens of a prompt that its last text encoder sees."""

    text_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the text encoders; bfloat16 takes half the memory."""

    text_device: Literal["cpu", "gpu"] = "cpu"
    """Device on which a task encodes its prompts before it loads its models. On GPUs, separate
    processes do it and exit; a machine without a GPU uses its CPU. Large encoders such as T5-XXL
    take seconds per prompt on a CPU."""

    guidance: Literal["one_batch", "two_passes"] = "one_batch"
    """Whether the guided and the unguided prediction are computed in one batch or in two passes.
    Two passes halve the memory of a microbatch's activations, except in an update without gradient
    checkpointing, which stores those of both."""

    # Recomputed activations are bit-equal in float32, so the ratio before the first step stays 1.
    gradient_checkpointing: bool = False
    """Recompute activations in the update: less memory, about a third more time."""


class Sd3AdapterConfig(AdapterConfig):
    """The LoRA adapter."""

    # As in the released code, which does not adapt the second attention (`attn2`) of SD3.5 medium.
    target_modules: tuple[str, ...] = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    )
    """Modules of the transformer that get an update, matched by the end of their names."""


class Sd3PolicyConfig(PolicyConfig):
    """A Stable Diffusion 3 model with an adapter."""

    type: Literal["sd3"] = "sd3"

    adapter: Sd3AdapterConfig = Sd3AdapterConfig()

    max_sequence_length: PositiveInt = 256
    """Tokens that the T5 encoder sees of a prompt."""


AnyPolicyConfig = Sd3PolicyConfig
"""Settings of any family. pydantic refuses a discriminated union of one; with a second member it is
`Annotated[Sd3PolicyConfig | OtherPolicyConfig, Field(discriminator="type")]`."""


class SamplingConfig(Section):
    """How images are sampled in training."""

    # Steps and guidance of the released code.
    num_inference_steps: PositiveInt = 10
    """Steps from noise to image."""

    guidance_scale: NonNegativeFloat = 4.5
    """Weight of classifier-free guidance, in rollout and update alike; 1 switches it off."""
