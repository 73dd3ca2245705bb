"""The Stable Diffusion 3 family as a policy."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.schedule import flow_match_sigmas
from advgrpo.config import AdapterConfig, Sd3PolicyConfig
from advgrpo.models.policies.adapter import (
    add_adapter,
    load_adapter,
    other_adapter,
    trainable_parameters,
)
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.compilation import compile_in_place, compiler_errors
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.loading import DTYPES, load_models
from advgrpo.models.policies.saved_adapter import adapter_folder, refuse_foreign
from advgrpo.models.policies.sd3_text_encoders import TextEncoders

REMEMBERED_BYTES = 2**30
"""Most memory for embeddings of prompts that lie in no store."""


class Sd3Policy:
    """A `StableDiffusion3Pipeline` whose transformer carries a LoRA adapter.

    Args:
        pipeline: With transformer, VAE and scheduler; frozen here.
        config: The policy's settings.
        device: Where transformer and VAE work.
        seed: Of a fresh adapter.
        embeddings: Of the prompts that are expected; others are encoded here, by text encoders that
            are loaded only then.
    """

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        config: Sd3PolicyConfig,
        device: torch.device,
        *,
        seed: int = 0,
        embeddings: StoredEmbeddings | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self._text = TextEncoders(config)
        self._stored = embeddings
        self._remembered: dict[str, PromptEmbeddings] = {}
        self.transformer = pipeline.transformer.to(device)
        self.vae = pipeline.vae.to(device)
        add_adapter(self.transformer, config.adapter, seed=seed)
        if config.gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()
        # DeepSpeed's engine takes the transformer's place here, so that rollout and update run the
        # very same module.
        self.forward_module: torch.nn.Module = self.transformer
        side = config.resolution_pixels // pipeline.vae_scale_factor
        self.latent_shape = (self.transformer.config.in_channels, side, side)
        self._shift = float(pipeline.scheduler.config.shift)
        self._training_steps = int(pipeline.scheduler.config.num_train_timesteps)

    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """The noise schedule with the shift of the model's own scheduler."""
        return flow_match_sigmas(
            num_inference_steps, shift=self._shift, training_steps=self._training_steps
        )

    def embed(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """Read or encode prompts; each is encoded once, and alone."""
        known = {prompt: self._embedding(prompt) for prompt in dict.fromkeys(prompts)}
        dtype = DTYPES[self.config.forward_dtype]
        return PromptEmbeddings(
            context=torch.cat([known[p].context for p in prompts]).to(self.device, dtype),
            pooled=torch.cat([known[p].pooled for p in prompts]).to(self.device, dtype),
        )

    def _embedding(self, prompt: str) -> PromptEmbeddings:
        if self._stored is not None and prompt in self._stored:
            return self._stored.take(prompt)
        if prompt not in self._remembered:
            encoded = self._text.encode(prompt)
            bytes_each = encoded.context.nbytes + encoded.pooled.nbytes
            if (len(self._remembered) + 1) * bytes_each > REMEMBERED_BYTES:
                self._remembered.clear()
            self._remembered[prompt] = encoded
        return self._remembered[prompt]

    @cached_property
    def _empty(self) -> PromptEmbeddings:
        return self.embed([""])

    def velocity(
        self,
        latents: Float[Tensor, "batch channel height width"],
        sigma: float,
        embeddings: PromptEmbeddings,
        *,
        guidance_scale: float,
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict noise minus image in float32; guidance takes two passes, or one twice as large.

        Source:
            Classifier-free guidance, arXiv:2207.12598.
        """
        count = latents.shape[0]
        if guidance_scale == 1:
            return self._forward(latents, sigma, embeddings)
        empty = self._empty
        context, pooled = empty.context.expand(count, -1, -1), empty.pooled.expand(count, -1)
        if self.config.guidance == "two_passes":
            without = self._forward(latents, sigma, PromptEmbeddings(context, pooled))
            given = self._forward(latents, sigma, embeddings)
        else:
            both = PromptEmbeddings(
                context=torch.cat([context, embeddings.context]),
                pooled=torch.cat([pooled, embeddings.pooled]),
            )
            without, given = self._forward(torch.cat([latents, latents]), sigma, both).chunk(2)
        return without + guidance_scale * (given - without)

    def compile(self, backend: str) -> None:
        """Let `torch.compile` make the transformer faster from its next pass on.

        Args:
            backend: `inductor`, or one that helps to find faults.
        """
        compile_in_place(self.transformer, backend)

    def _forward(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
        with compiler_errors():
            (velocity,) = self.forward_module(
                hidden_states=latents.to(DTYPES[self.config.forward_dtype]),
                timestep=torch.full((latents.shape[0],), 1000 * sigma, device=self.device),
                encoder_hidden_states=embeddings.context,
                pooled_projections=embeddings.pooled,
                return_dict=False,
            )
        predicted: Tensor = velocity.float()
        return predicted

    def decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode latents into RGB in [0, 1], in steps of 1/255.

        Reference images come from 8-bit files; unrounded images could be told apart by that alone.
        """
        scaled = latents / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)
        slices = scaled.to(self.vae.dtype).split(self.config.decode_batch_size or len(scaled))
        with torch.no_grad():
            decoded = [self.vae.decode(part, return_dict=False)[0].float() for part in slices]
        images = torch.cat(decoded)
        return ((images / 2 + 0.5).clamp(0, 1) * 255).round() / 255

    @contextmanager
    def without_engine(self) -> Iterator[None]:
        """Within it, forward passes are not DeepSpeed's: their gradients are nobody's business."""
        engine, self.forward_module = self.forward_module, self.transformer
        try:
            yield
        finally:
            self.forward_module = engine

    @contextmanager
    def base_policy(self) -> Iterator[None]:
        """Within it, the adapter is off."""
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    def other_adapter(self, folder: Path, config: AdapterConfig) -> AbstractContextManager[None]:
        """Within it, a saved adapter takes the place of this one; see `adapter.other_adapter`."""
        return other_adapter(self.transformer, folder, config)

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters by their names in peft's layout."""
        return trainable_parameters(self.transformer)


def load_policy(
    config: Sd3PolicyConfig,
    device: torch.device,
    adapter: Path | None = None,
    *,
    seed: int = 0,
    embeddings: StoredEmbeddings | None = None,
) -> Sd3Policy:
    """Load the base model and put an adapter on it.

    Args:
        config: The policy's settings.
        device: Where transformer and VAE work.
        adapter: Folder of a trained adapter in peft's layout; none gives a fresh one, which changes
            nothing yet (or `config.adapter.initial_adapter`).
        seed: Of a fresh adapter.
        embeddings: Of the prompts that are expected; without them, text encoders are loaded when
            the first prompt comes.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture, or the adapter is
            for other modules or of another rank or alpha than the settings say.
    """
    if adapter is None and config.adapter.initial_adapter is not None:
        adapter = adapter_folder(config.adapter.initial_adapter)
    pipeline = load_models(config)
    if adapter is not None:
        refuse_foreign(dict(pipeline.transformer.named_modules()), adapter)
    policy = Sd3Policy(pipeline, config, device, seed=seed, embeddings=embeddings)
    if adapter is not None:
        load_adapter(policy.transformer, adapter, config.adapter)
    return policy
