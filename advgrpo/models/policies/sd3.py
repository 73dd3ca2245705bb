"""Stable Diffusion 3 and 3.5."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.schedule import flow_match_sigmas
from advgrpo.config.policy import Sd3PolicyConfig
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.pipeline_parts import PipelineParts
from advgrpo.models.policies.text_encoders import PipelineTextEncoders
from advgrpo.models.policies.transformer_policy import PolicyOptions, TransformerPolicy

_CLIP_TOKENS = 77
"""The embeddings of the CLIP encoders are padded to this length, whatever the prompt."""

PARTS = PipelineParts(
    pipeline_class=StableDiffusion3Pipeline,
    models={"transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL"},
    text_encoders={
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
    },
    tokenizers=("tokenizer", "tokenizer_2", "tokenizer_3"),
    optional=("text_encoder_3", "tokenizer_3"),
    widths={"text_encoder_3": ("joint_attention_dim", 1)},
)


class Sd3TextEncoders(PipelineTextEncoders):
    """Two CLIP text encoders and a T5, which a published pipeline may lack."""

    parts = PARTS

    def _load(self) -> StableDiffusion3Pipeline:
        pipeline = super()._load()
        if pipeline.text_encoder_3 is None:
            # The pipeline then pads with zeros as wide as the transformer's input, which it reads
            # from the transformer's settings.
            settings = PARTS.settings(self._config, "transformer")
            # Only its settings are read, so no memory is allocated for billions of parameters.
            with torch.device("meta"):
                pipeline.transformer = SD3Transformer2DModel.from_config(settings)
        return pipeline

    def _encode(self, pipeline: Any, prompt: str) -> Mapping[str, Tensor]:  # noqa: ANN401
        context, _, pooled, _ = pipeline.encode_prompt(
            prompt=[prompt],
            prompt_2=[prompt],
            prompt_3=[prompt],
            device=self._device,
            # The unconditional embedding is the same for all prompts and is encoded once, as a
            # prompt.
            do_classifier_free_guidance=False,
            max_sequence_length=self._config.max_sequence_length,
        )
        return {"context": context[0], "pooled": pooled[0]}


class Sd3Policy(TransformerPolicy):
    """A `StableDiffusion3Pipeline` whose transformer carries a LoRA adapter.

    Args:
        config: The policy's settings.
        device: Device of transformer and VAE.
        options: Adapter, seed and stored embeddings.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture, or the
            adapter does not fit.
    """

    parts = PARTS
    text_encoders = Sd3TextEncoders

    def __init__(
        self, config: Sd3PolicyConfig, device: torch.device, **options: Unpack[PolicyOptions]
    ) -> None:
        pipeline = PARTS.load_models(config, device)
        # The pipeline derives the factor from the VAE's blocks: 8 for published weights, 4 for
        # pocket ones.
        side = config.resolution_pixels // pipeline.vae_scale_factor
        shape = (pipeline.transformer.config.in_channels, side, side)
        super().__init__(config, device, pipeline.transformer, pipeline.vae, shape, **options)
        self._schedule = pipeline.scheduler.config

    def _longest_embedding(self) -> Mapping[str, tuple[int, ...]]:
        settings = self.transformer.config
        context = (_CLIP_TOKENS + self.config.max_sequence_length, settings.joint_attention_dim)
        return {"context": context, "pooled": (settings.pooled_projection_dim,)}

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """Return the noise schedule with the shift of the model's own scheduler."""
        return flow_match_sigmas(
            num_inference_steps,
            shift=float(self._schedule.shift),
            training_steps=int(self._schedule.num_train_timesteps),
        )

    def _predict(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
        (velocity,) = self.forward_module(
            hidden_states=latents,
            # The transformer was trained with timesteps in [0, 1000].
            timestep=torch.full((len(latents),), 1000 * sigma, device=self.device),
            # All prompts have the same length, because the pipeline pads them, so no mask is
            # needed.
            encoder_hidden_states=embeddings.stack("context"),
            pooled_projections=embeddings.stack("pooled"),
            return_dict=False,
        )
        predicted: Tensor = velocity
        return predicted
