"""Qwen-Image."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from diffusers import QwenImagePipeline
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle
from torch.nn.utils.rnn import pad_sequence

from advgrpo.config.policy import QwenImagePolicyConfig
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.packing import PATCH, pack, unpack
from advgrpo.models.policies.pipeline_parts import PipelineParts
from advgrpo.models.policies.scheduling import scheduler_sigmas, shift_of_tokens
from advgrpo.models.policies.text_encoders import PipelineTextEncoders
from advgrpo.models.policies.transformer_policy import PolicyOptions, TransformerPolicy

PARTS = PipelineParts(
    pipeline_class=QwenImagePipeline,
    models={"transformer": "QwenImageTransformer2DModel", "vae": "AutoencoderKLQwenImage"},
    text_encoders={"text_encoder": "Qwen2_5_VLForConditionalGeneration"},
    tokenizers=("tokenizer",),
    widths={"text_encoder": ("joint_attention_dim", 1)},
)


class QwenImageTextEncoders(PipelineTextEncoders):
    """A Qwen2.5-VL language model; a prompt has as many embeddings as tokens."""

    parts = PARTS

    def _encode(self, pipeline: Any, prompt: str) -> Mapping[str, Tensor]:  # noqa: ANN401
        # Without a mask: a prompt that is encoded alone is not padded.
        context, _ = pipeline.encode_prompt(
            [prompt],
            device=self._device,
            max_sequence_length=self._config.max_sequence_length,
        )
        return {"context": context[0]}


class QwenImagePolicy(TransformerPolicy):
    """A `QwenImagePipeline` whose transformer carries a LoRA adapter.

    Args:
        config: The policy's settings.
        device: Device of transformer and VAE.
        options: Adapter, seed and stored embeddings.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture, or the
            adapter does not fit.
    """

    parts = PARTS
    text_encoders = QwenImageTextEncoders
    # As in the model's card. Without a negative prompt the pipeline has no guidance.
    unconditional_prompt = " "

    def __init__(
        self, config: QwenImagePolicyConfig, device: torch.device, **options: Unpack[PolicyOptions]
    ) -> None:
        pipeline = PARTS.load_models(config, device)
        side = config.resolution_pixels // pipeline.vae_scale_factor
        shape = (pipeline.vae.config.z_dim, side, side)
        super().__init__(config, device, pipeline.transformer, pipeline.vae, shape, **options)
        self._scheduler, self._side = pipeline.scheduler, side

    def _longest_embedding(self) -> Mapping[str, tuple[int, ...]]:
        settings = self.transformer.config
        return {"context": (self.config.max_sequence_length, settings.joint_attention_dim)}

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """Return the noise schedule of the model's own scheduler."""
        mu = shift_of_tokens(self._scheduler.config, (self._side // PATCH) ** 2)
        return scheduler_sigmas(self._scheduler, num_inference_steps, mu=mu)

    def _predict(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
        contexts = embeddings.tensors("context")
        mask = None
        # The transformer is faster without a mask.
        if len({len(each) for each in contexts}) > 1:
            ones = [
                torch.ones(len(each), dtype=torch.long, device=self.device) for each in contexts
            ]
            mask = pad_sequence(ones, batch_first=True)
        side = self._side // PATCH
        (predicted,) = self.forward_module(
            hidden_states=pack(latents),
            timestep=torch.full((len(latents),), sigma, device=self.device),
            encoder_hidden_states=pad_sequence(contexts, batch_first=True),
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, side, side)]] * len(latents),
            return_dict=False,
        )
        return unpack(predicted, self._side)

    def _guide(self, unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
        guided = super()._guide(unconditional, conditional, guidance_scale)
        # Each token keeps the norm of its conditional prediction.
        rescaled = _norms(conditional) / _norms(guided)
        return guided * interpolate(rescaled, scale_factor=float(PATCH))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel of the latents."""
        settings = self.vae.config
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (settings.latents_mean, settings.latents_std)
        )
        return mean, std

    def _decode(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        # The VAE is one of videos: an image is a video of one frame.
        frames = (latents * std + mean).to(self.vae.dtype).unsqueeze(2)
        images: Tensor = self.vae.decode(frames, return_dict=False)[0].squeeze(2)
        return images

    def _encode(self, images: Tensor) -> Tensor:
        mean, std = self._statistics()
        frames = images.to(self.vae.dtype).unsqueeze(2)
        (posterior,) = self.vae.encode(frames, return_dict=False)
        latents: Tensor = (posterior.mode().float().squeeze(2) - mean) / std
        return latents


def _norms(predicted: Tensor) -> Tensor:
    norms: Tensor = pixel_unshuffle(predicted, PATCH).norm(dim=1, keepdim=True)
    return norms
