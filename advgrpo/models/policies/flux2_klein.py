"""FLUX.2 [klein], base and distilled."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from advgrpo.config.policy import Flux2KleinPolicyConfig, PolicyConfig
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.packing import PATCH
from advgrpo.models.policies.pipeline_parts import PipelineParts
from advgrpo.models.policies.scheduling import scheduler_sigmas
from advgrpo.models.policies.text_encoders import PipelineTextEncoders
from advgrpo.models.policies.transformer_policy import PolicyOptions, TransformerPolicy

PARTS = PipelineParts(
    pipeline_class=Flux2KleinPipeline,
    models={"transformer": "Flux2Transformer2DModel", "vae": "AutoencoderKLFlux2"},
    text_encoders={"text_encoder": "Qwen3ForCausalLM"},
    tokenizers=("tokenizer",),
    widths={"text_encoder": ("joint_attention_dim", 3)},
)


class Flux2KleinTextEncoders(PipelineTextEncoders):
    """Three layers of a Qwen3 language model, side by side."""

    parts = PARTS

    def _encode(self, pipeline: Any, prompt: str) -> Mapping[str, Tensor]:  # noqa: ANN401
        context, _ = pipeline.encode_prompt(
            [prompt],
            device=self._device,
            max_sequence_length=self._config.max_sequence_length,
        )
        return {"context": context[0]}


class Flux2KleinPolicy(TransformerPolicy):
    """A `Flux2KleinPipeline` whose transformer carries a LoRA adapter.

    Its latents are those of the transformer: patches of 2 x 2, normalized per channel.

    Args:
        config: The policy's settings.
        device: Device of transformer and VAE.
        options: Adapter, seed and stored embeddings.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture, or the
            adapter does not fit.
    """

    parts = PARTS
    text_encoders = Flux2KleinTextEncoders

    def __init__(
        self, config: Flux2KleinPolicyConfig, device: torch.device, **options: Unpack[PolicyOptions]
    ) -> None:
        pipeline = PARTS.load_models(config, device)
        side = config.resolution_pixels // pipeline.vae_scale_factor // PATCH
        shape = (pipeline.transformer.config.in_channels, side, side)
        super().__init__(config, device, pipeline.transformer, pipeline.vae, shape, **options)
        self._scheduler, self._side = pipeline.scheduler, side
        zero, axis = torch.zeros(1, dtype=torch.long), torch.arange(side)
        self._positions = torch.cartesian_prod(zero, axis, axis, zero).to(device)

    @classmethod
    def _has_guidance(cls, config: PolicyConfig) -> bool:
        return not PARTS.settings(config).get("is_distilled", False)

    def _longest_embedding(self) -> Mapping[str, tuple[int, ...]]:
        settings = self.transformer.config
        return {"context": (self.config.max_sequence_length, settings.joint_attention_dim)}

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """Return the noise schedule, whose shift depends on the number of tokens and of steps."""
        mu = compute_empirical_mu(len(self._positions), num_inference_steps)
        return scheduler_sigmas(self._scheduler, num_inference_steps, mu=mu)

    def _predict(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
        context = embeddings.stack("context")
        words = torch.arange(context.shape[1], device=self.device)
        zero = words.new_zeros(1)
        (predicted,) = self.forward_module(
            hidden_states=latents.flatten(2).transpose(1, 2),
            timestep=torch.full((len(latents),), sigma, device=self.device),
            guidance=None,
            # No mask: the model attends to the padding of the prompt.
            encoder_hidden_states=context,
            txt_ids=torch.cartesian_prod(zero, zero, zero, words).expand(len(latents), -1, -1),
            img_ids=self._positions.expand(len(latents), -1, -1),
            return_dict=False,
        )
        velocity: Tensor = predicted.transpose(1, 2).unflatten(2, (self._side, self._side))
        return velocity

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel of the patches."""
        norm = self.vae.bn
        std = (norm.running_var + self.vae.config.batch_norm_eps).sqrt()
        return norm.running_mean[:, None, None], std[:, None, None]

    def _decode(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        patches = pixel_shuffle((latents * std + mean).to(self.vae.dtype), PATCH)
        images: Tensor = self.vae.decode(patches, return_dict=False)[0]
        return images

    def _encode(self, images: Tensor) -> Tensor:
        mean, std = self._statistics()
        (posterior,) = self.vae.encode(images.to(self.vae.dtype), return_dict=False)
        return (pixel_unshuffle(posterior.mode().float(), PATCH) - mean) / std
