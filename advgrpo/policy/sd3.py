"""The Stable Diffusion 3 family as a policy."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from advgrpo.algorithm.schedule import flow_match_sigmas
from advgrpo.config import AdapterConfig, Sd3PolicyConfig
from advgrpo.errors import WeightsError
from advgrpo.policy.adapter import (
    add_adapter,
    load_adapter,
    other_adapter,
    trainable_parameters,
)
from advgrpo.policy.base import PromptEmbeddings
from advgrpo.policy.saved_adapter import adapter_folder, refuse_foreign
from advgrpo.storage import local_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REMEMBERED_PROMPTS = 4096


class Sd3Policy:
    """A `StableDiffusion3Pipeline` whose transformer carries a LoRA adapter.

    Args:
        pipeline: With transformer, VAE, text encoders and tokenizers; frozen here.
        config: The policy's settings.
        device: Where transformer and VAE work. Text encoders stay on the CPU: each prompt is
            encoded once, and T5 alone would fill a small GPU.
        seed: Of a fresh adapter.
    """

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        config: Sd3PolicyConfig,
        device: torch.device,
        *,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.device = device
        self._pipeline = pipeline
        self._embeddings: dict[str, PromptEmbeddings] = {}
        for part in (pipeline.vae, pipeline.transformer, *_text_encoders(pipeline)):
            part.requires_grad_(False)
            part.eval()
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

    def sigmas(self, denoising_steps: int) -> Float[Tensor, "step_plus_one"]:
        """The noise schedule with the shift of the model's own scheduler."""
        return flow_match_sigmas(
            denoising_steps, shift=self._shift, training_steps=self._training_steps
        )

    def embed(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """Encode prompts with the pipeline's text encoders; each is encoded once, and alone."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._embeddings]
        if len(self._embeddings) + len(new) > REMEMBERED_PROMPTS:
            self._embeddings.clear()
            new = list(dict.fromkeys(prompts))
        # Encoded together, a prompt's last bits would depend on who shares the batch. The encoders
        # are on the CPU, where a batch brings next to nothing.
        self._embeddings |= {prompt: self._encode(prompt) for prompt in new}
        known = [self._embeddings[prompt] for prompt in prompts]
        dtype = DTYPES[self.config.forward_dtype]
        return PromptEmbeddings(
            context=torch.cat([e.context for e in known]).to(self.device, dtype),
            pooled=torch.cat([e.pooled for e in known]).to(self.device, dtype),
        )

    def _encode(self, prompt: str) -> PromptEmbeddings:
        with torch.no_grad():
            context, _, pooled, _ = self._pipeline.encode_prompt(
                prompt=[prompt],
                prompt_2=[prompt],
                prompt_3=[prompt],
                device=torch.device("cpu"),
                do_classifier_free_guidance=False,
                max_sequence_length=self.config.max_sequence_length,
            )
        return PromptEmbeddings(context, pooled)

    def velocity(
        self,
        latents: Float[Tensor, "batch channel height width"],
        sigma: float,
        embeddings: PromptEmbeddings,
        *,
        guidance_scale: float,
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict noise minus image in float32; guidance doubles the batch.

        Source:
            Classifier-free guidance, arXiv:2207.12598.
        """
        count = latents.shape[0]
        if guidance_scale == 1:
            return self._forward(latents, sigma, embeddings)
        empty = self.embed([""])
        both = PromptEmbeddings(
            context=torch.cat([empty.context.expand(count, -1, -1), embeddings.context]),
            pooled=torch.cat([empty.pooled.expand(count, -1), embeddings.pooled]),
        )
        without, given = self._forward(torch.cat([latents, latents]), sigma, both).chunk(2)
        return without + guidance_scale * (given - without)

    def _forward(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
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
        with torch.no_grad():
            decoded = self.vae.decode(scaled.to(self.vae.dtype), return_dict=False)[0]
        images: Tensor = decoded.float()
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
) -> Sd3Policy:
    """Load the base model and put an adapter on it.

    Args:
        config: The policy's settings.
        device: Where transformer and VAE work.
        adapter: Folder of a trained adapter in peft's layout; none gives a fresh one, which changes
            nothing yet (or `config.adapter.initial_adapter`).
        seed: Of a fresh adapter.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture, or the adapter is
            for other modules or of another rank or alpha than the settings say.
    """
    if adapter is None and config.adapter.initial_adapter is not None:
        adapter = adapter_folder(config.adapter.initial_adapter)
    folder = local_folder(config.weights)
    try:
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            folder,
            dtype={
                "transformer": DTYPES[config.forward_dtype],
                "vae": DTYPES[config.decode_dtype],
                "default": torch.float32,
            },
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"policy.weights: {folder} does not hold a Stable Diffusion 3 pipeline: {error}",
            repair="give a complete folder in diffusers' layout with safetensors weights",
        ) from error
    if not isinstance(pipeline, StableDiffusion3Pipeline):
        raise WeightsError(
            f"policy.weights: {folder} holds a {type(pipeline).__name__}",
            repair="give a StableDiffusion3Pipeline, or another policy type",
        )
    _refuse_missing_tensors(pipeline, folder)
    if adapter is not None:
        refuse_foreign(dict(pipeline.transformer.named_modules()), adapter)
    policy = Sd3Policy(pipeline, config, device, seed=seed)
    if adapter is not None:
        load_adapter(policy.transformer, adapter, config.adapter)
    return policy


def _refuse_missing_tensors(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    # The libraries fill what a file lacks with random numbers and only warn.
    for name in ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3"):
        part = pipeline.components[name]
        if part is None:
            continue
        stored: set[str] = set()
        for path in (folder / name).glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                stored.update(file.keys())
        state = part.state_dict()
        # Tied tensors share their memory with one that is stored.
        tied = {tensor.data_ptr() for key, tensor in state.items() if key in stored}
        missing = [key for key, tensor in state.items() if tensor.data_ptr() not in tied]
        if missing:
            raise WeightsError(
                f"policy.weights: {folder / name} lacks {len(missing)} tensors, for instance "
                f"{missing[0]}",
                repair="fetch the weights again, whole",
            )


def _text_encoders(pipeline: StableDiffusion3Pipeline) -> list[torch.nn.Module]:
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3)
    return [encoder for encoder in encoders if encoder is not None]
