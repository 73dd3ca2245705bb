"""FLUX.1 [dev] and [schnell]."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.policy import Flux1PolicyConfig, PolicyConfig
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.packing import PATCH, pack, unpack
from advgrpo.models.policies.pipeline_parts import PipelineParts
from advgrpo.models.policies.scheduling import scheduler_sigmas, shift_of_tokens
from advgrpo.models.policies.text_encoders import PipelineTextEncoders
from advgrpo.models.policies.transformer_policy import PolicyOptions, TransformerPolicy

PARTS = PipelineParts(
    pipeline_class=FluxPipeline,
    models={"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL"},
    text_encoders={"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"},
    tokenizers=("tokenizer", "tokenizer_2"),
    widths={
        "text_encoder": ("pooled_projection_dim", 1),
        "text_encoder_2": ("joint_attention_dim", 1),
    },
)


class Flux1TextEncoders(PipelineTextEncoders):
    """A CLIP text encoder, of which the pooled output is used, and a T5."""

    parts = PARTS

    def _encode(self, pipeline: Any, prompt: str) -> Mapping[str, Tensor]:  # noqa: ANN401
        context, pooled, _ = pipeline.encode_prompt(
            [prompt],
            # Not omitted: the pipeline's default is the same, but replaces an empty prompt.
            prompt_2=[prompt],
            device=self._device,
            max_sequence_length=self._config.max_sequence_length,
        )
        return {"context": context[0], "pooled": pooled[0]}


class Flux1Policy(TransformerPolicy):
    """A `FluxPipeline` whose transformer carries a LoRA adapter.

    Args:
        config: The policy's settings.
        device: Device of transformer and VAE.
        options: Adapter, seed and stored embeddings.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture, or the
            adapter does not fit.
    """

    parts = PARTS
    text_encoders = Flux1TextEncoders

    def __init__(
        self, config: Flux1PolicyConfig, device: torch.device, **options: Unpack[PolicyOptions]
    ) -> None:
        pipeline = PARTS.load_models(config, device)
        side = config.resolution_pixels // pipeline.vae_scale_factor
        shape = (pipeline.vae.config.latent_channels, side, side)
        super().__init__(config, device, pipeline.transformer, pipeline.vae, shape, **options)
        self._scheduler, self._side = pipeline.scheduler, side
        axis = torch.arange(side // PATCH, device=device)
        # Rows and columns of the image's tokens; the first axis is 0 for text and image alike.
        self._positions = torch.cartesian_prod(axis.new_zeros(1), axis, axis).float()

    @classmethod
    def _has_guidance(cls, config: PolicyConfig) -> bool:
        return bool(PARTS.settings(config, "transformer").get("guidance_embeds", False))

    def _longest_embedding(self) -> Mapping[str, tuple[int, ...]]:
        settings = self.transformer.config
        context = (self.config.max_sequence_length, settings.joint_attention_dim)
        return {"context": context, "pooled": (settings.pooled_projection_dim,)}

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """Return the noise schedule of the model's own scheduler."""
        mu = shift_of_tokens(self._scheduler.config, len(self._positions))
        return scheduler_sigmas(self._scheduler, num_inference_steps, mu=mu)

    def velocity(
        self,
        latents: Tensor,
        sigma: float,
        embeddings: PromptEmbeddings,
        *,
        guidance_scale: float | None,
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict noise minus image in float32; the transformer takes the scale as an input."""
        if self.transformer.config.guidance_embeds:
            scale = torch.tensor(
                1.0 if guidance_scale is None else guidance_scale, device=self.device
            )
            embeddings = embeddings.with_tensor("guidance", scale)
        return super().velocity(latents, sigma, embeddings, guidance_scale=guidance_scale)

    def _predict(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
        context = embeddings.stack("context")
        (predicted,) = self.forward_module(
            hidden_states=pack(latents),
            timestep=torch.full((len(latents),), sigma, device=self.device),
            guidance=(
                embeddings.stack("guidance") if self.transformer.config.guidance_embeds else None
            ),
            pooled_projections=embeddings.stack("pooled"),
            # All prompts have the same length, because the pipeline pads them. No mask: the model
            # attends to the padding.
            encoder_hidden_states=context,
            txt_ids=self._positions.new_zeros(context.shape[1], 3),
            img_ids=self._positions,
            return_dict=False,
        )
        return unpack(predicted, self._side)
