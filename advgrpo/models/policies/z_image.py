"""Z-Image and Z-Image-Turbo."""

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from diffusers import ZImagePipeline
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.policy import ZImagePolicyConfig
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.packing import PATCH
from advgrpo.models.policies.pipeline_parts import PipelineParts
from advgrpo.models.policies.scheduling import scheduler_sigmas, shift_of_tokens
from advgrpo.models.policies.text_encoders import PipelineTextEncoders
from advgrpo.models.policies.transformer_policy import PolicyOptions, TransformerPolicy

PARTS = PipelineParts(
    pipeline_class=ZImagePipeline,
    models={"transformer": "ZImageTransformer2DModel", "vae": "AutoencoderKL"},
    text_encoders={"text_encoder": "Qwen3Model"},
    tokenizers=("tokenizer",),
    widths={"text_encoder": ("cap_feat_dim", 1)},
)


class ZImageTextEncoders(PipelineTextEncoders):
    """A Qwen3 language model; a prompt has as many embeddings as tokens."""

    parts = PARTS

    def _encode(self, pipeline: Any, prompt: str) -> Mapping[str, Tensor]:  # noqa: ANN401
        (context,), _ = pipeline.encode_prompt(
            [prompt],
            device=self._device,
            # The unconditional prompt is encoded once, as a prompt.
            do_classifier_free_guidance=False,
            max_sequence_length=self._config.max_sequence_length,
        )
        return {"context": context}


class ZImagePolicy(TransformerPolicy):
    """A `ZImagePipeline` whose transformer carries a LoRA adapter.

    Args:
        config: The policy's settings.
        device: Device of transformer and VAE.
        options: Adapter, seed and stored embeddings.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture, or the
            adapter does not fit.
    """

    parts = PARTS
    text_encoders = ZImageTextEncoders

    def __init__(
        self, config: ZImagePolicyConfig, device: torch.device, **options: Unpack[PolicyOptions]
    ) -> None:
        pipeline = PARTS.load_models(config, device)
        side = config.resolution_pixels // pipeline.vae_scale_factor
        shape = (pipeline.transformer.in_channels, side, side)
        super().__init__(config, device, pipeline.transformer, pipeline.vae, shape, **options)
        self._scheduler, self._tokens = pipeline.scheduler, (side // PATCH) ** 2

    def _longest_embedding(self) -> Mapping[str, tuple[int, ...]]:
        settings = self.transformer.config
        return {"context": (self.config.max_sequence_length, settings.cap_feat_dim)}

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """Return the noise schedule of the model's own scheduler."""
        mu = shift_of_tokens(self._scheduler.config, self._tokens)
        return scheduler_sigmas(self._scheduler, num_inference_steps, mu=mu)

    def _predict(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
        (predicted,) = self.forward_module(
            # Lists of images and prompts, which may differ in size; the second axis is time.
            list(latents.unsqueeze(2)),
            # The model's time runs from noise at 0 to the image at 1.
            torch.full((len(latents),), 1 - sigma, device=self.device),
            embeddings.tensors("context"),
            return_dict=False,
        )
        # It predicts image minus noise.
        return -torch.stack(predicted).squeeze(2)

    def _guide(self, unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
        # Extrapolates from the conditional prediction, so 0 switches guidance off, not 1.
        return conditional + guidance_scale * (conditional - unconditional)
