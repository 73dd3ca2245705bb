"""The transformer with LoRA adapter and the VAE that all policy families share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.policy import AdapterConfig, PolicyConfig
from advgrpo.errors import ConfigError
from advgrpo.models.latents import LatentCodec
from advgrpo.models.meta import META
from advgrpo.models.policies.adapter import (
    add_adapter,
    load_adapter,
    other_adapter,
    trainable_parameters,
)
from advgrpo.models.policies.base import PromptEmbeddings, TextEncoders
from advgrpo.models.policies.compilation import compile_layers, compiler_errors
from advgrpo.models.policies.embeddings import PromptCache, StoredEmbeddings
from advgrpo.models.policies.pipeline_parts import DTYPES, PipelineParts
from advgrpo.models.policies.quantization import check_quantization
from advgrpo.models.policies.saved_adapter import refuse_foreign


class PolicyOptions(TypedDict, total=False):
    """Arguments that every family passes on to `TransformerPolicy`."""

    adapter: Path | None
    """Folder of a trained adapter in peft's layout; without it the adapter is a fresh one."""

    seed: int
    """Of a fresh adapter; 0 by default."""

    embeddings: StoredEmbeddings | None
    """Of the prompts that are expected; others are encoded when they are first used."""


class TransformerPolicy(LatentCodec, ABC):
    """A frozen transformer with a trainable adapter, a VAE, and text encoders.

    A family's class loads its models and defines `sigmas`, `_predict`, and where they differ from
    what is here, `_guide`, `velocity`, `_decode`, `_encode` and `_has_guidance`.

    Args:
        config: The policy's settings.
        device: Device of transformer and VAE.
        transformer: Frozen, of diffusers; gets the adapter.
        vae: Frozen, of diffusers.
        latent_shape: Channel, height and width of one image's latents.
        options: Adapter, seed and stored embeddings.

    Raises:
        WeightsError: If the adapter is for another model, or its rank or alpha differs from the
            settings.
    """

    parts: ClassVar[PipelineParts | None] = None
    """The pipeline that it is loaded from, if it is one of diffusers."""

    text_encoders: ClassVar[type[TextEncoders]]
    """The family's text encoders."""

    unconditional_prompt: ClassVar[str] = ""
    """The prompt that classifier-free guidance leads away from."""

    def __init__(
        self,
        config: PolicyConfig,
        device: torch.device,
        transformer: Any,  # noqa: ANN401 - diffusers has no types
        vae: Any,  # noqa: ANN401
        latent_shape: tuple[int, int, int],
        **options: Unpack[PolicyOptions],
    ) -> None:
        self.config, self.device, self.latent_shape = config, device, latent_shape
        self.dtype = DTYPES[config.forward_dtype]
        encoders: TextEncoders = type(self).text_encoders(config, torch.device("cpu"))
        self._prompts = PromptCache(encoders, options.get("embeddings"))
        self.transformer, self.vae = transformer.to(device), vae.to(device)
        adapter = options.get("adapter")
        if adapter is not None:
            # The adapter's layers would hide the names of the modules that they wrap.
            refuse_foreign(dict(self.transformer.named_modules()), adapter)
        self._casts = config.adapter_dtype == "auto"
        seed = options.get("seed", 0)
        add_adapter(self.transformer, config.adapter, seed=seed, cast=self._casts)
        if adapter is not None:
            load_adapter(self.transformer, adapter, config.adapter)
        if config.gradient_checkpointing is True:
            self.transformer.enable_gradient_checkpointing()
        self._is_compiled = self._uses_kernels_of_update = False
        # Rollout and update must run the very same module, which DeepSpeed's engine wraps.
        self.forward_module: torch.nn.Module = self.transformer

    @classmethod
    def check(
        cls,
        config: PolicyConfig,
        *,
        guidance_scale: float | None = None,
        adapter: Path | None = None,
    ) -> None:
        """Check settings by the small files of the weights, before anything large is loaded.

        Args:
            config: The policy's settings.
            guidance_scale: Weight of the guidance, if images will be sampled.
            adapter: Folder of the adapter that will be loaded.

        Raises:
            ConfigError: If the model has no guidance, or cannot draw images of this size.
            WeightsError: If the pipeline is another family's or incomplete, or the adapter is for
                another model.
        """
        if config.quantization == "int8":
            check_quantization()
        if cls.parts is None:
            return
        cls.parts.check(config, adapter)
        # At 1 or below, guidance is off or weakens the prompt, which no pipeline warns of.
        if guidance_scale is not None and guidance_scale > 1 and not cls._has_guidance(config):
            raise ConfigError(
                f"training.sampling.guidance_scale={guidance_scale:g}: the model in policy.weights "
                "is distilled and has no guidance",
                repair="set it to 1, or use weights that are not distilled",
            )

    @classmethod
    def _has_guidance(cls, config: PolicyConfig) -> bool:
        """Return whether the weights can be guided."""
        del config
        return True

    @abstractmethod
    def _longest_embedding(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of a prompt's embeddings that has the most tokens, for estimates."""

    @abstractmethod
    def sigmas(self, num_inference_steps: int) -> Float[Tensor, "step_plus_one"]:
        """Return the noise schedule of the model's own scheduler."""

    @abstractmethod
    def _predict(
        self,
        latents: Float[Tensor, "batch channel height width"],
        sigma: float,
        embeddings: PromptEmbeddings,
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict noise minus image by one pass of `forward_module`, without guidance.

        Args:
            latents: In the transformer's precision.
            sigma: In (0, 1].
            embeddings: Of one prompt per image, on the policy's device.
        """

    def _guide(
        self, unconditional: Tensor, conditional: Tensor, guidance_scale: float
    ) -> Float[Tensor, "batch channel height width"]:
        """Combine both predictions of classifier-free guidance."""
        return unconditional + guidance_scale * (conditional - unconditional)

    def embed(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """Read or encode prompts; each is encoded once, and alone."""
        known = {
            # Moved once per distinct prompt: a group repeats each prompt `group_size` times.
            prompt: self._embedding(prompt).to(self.device, self.dtype)
            for prompt in dict.fromkeys(prompts)
        }
        return PromptEmbeddings(tuple(known[prompt].prompts[0] for prompt in prompts))

    def _embedding(self, prompt: str) -> PromptEmbeddings:
        if self.device == META:
            shapes = self._longest_embedding()
            longest = {name: torch.empty(shape, device=META) for name, shape in shapes.items()}
            return PromptEmbeddings((longest,))
        return self._prompts.take(prompt)

    @cached_property
    def _unconditional(self) -> PromptEmbeddings:
        return self.embed([self.unconditional_prompt])

    def velocity(
        self,
        latents: Float[Tensor, "batch channel height width"],
        sigma: float,
        embeddings: PromptEmbeddings,
        *,
        guidance_scale: float | None,
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict noise minus image in float32; guidance takes two passes, or one twice as large.

        A family whose transformer takes the scale as an input adds it to the embeddings.

        Source:
            Classifier-free guidance, arXiv:2207.12598.
        """
        if guidance_scale is None or self.config.guidance_passes(guidance_scale) == 1:
            return self._forward(latents, sigma, embeddings)
        unconditional = self._unconditional[[0] * len(latents)]
        # Two passes need less memory. Rollout and update must use the same way: it changes the last
        # bits of the prediction, and the ratio is sensitive to them.
        if self.config.guidance == "two_passes":
            without = self._forward(latents, sigma, unconditional)
            given = self._forward(latents, sigma, embeddings)
        else:
            both = self._forward(torch.cat([latents, latents]), sigma, unconditional + embeddings)
            # The order of diffusers' pipelines: the unconditional half comes first.
            without, given = both.chunk(2)
        return self._guide(without, given, guidance_scale)

    def _forward(self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings) -> Tensor:
        with compiler_errors(), ExitStack() as stack:
            if self._uses_kernels_of_update:
                # Kernels that are compiled with and without gradient round apart, which moves a
                # ratio by more than the clip range.
                stack.enter_context(torch.enable_grad())
                stack.enter_context(self.without_engine())
            # bfloat16 would round the step's mean by more than the noise it is compared with.
            predicted = self._predict(latents.to(self.dtype), sigma, embeddings).float()
        return predicted.detach() if self._uses_kernels_of_update else predicted

    def compile(self, backend: str | None) -> None:
        """Compile the transformer's layers with a backend of `torch.compile`, at the next pass."""
        compile_layers(self.transformer, backend)
        self._is_compiled = backend is not None

    @contextmanager
    def as_in_update(self) -> Iterator[None]:
        """Round passes without gradient as those of the update, within the context."""
        self._uses_kernels_of_update = self._is_compiled
        try:
            yield
        finally:
            self._uses_kernels_of_update = False

    def use_engine(self, engine: torch.nn.Module) -> None:
        """Route forward passes through an engine that wraps `transformer`."""
        self.forward_module = engine

    @contextmanager
    def without_engine(self) -> Iterator[None]:
        """Route forward passes past the engine within the context.

        For passes whose gradients are not those of a step: the engine counts and accumulates them.
        """
        engine, self.forward_module = self.forward_module, self.transformer
        try:
            yield
        finally:
            self.forward_module = engine

    @contextmanager
    def base_policy(self) -> Iterator[None]:
        """Disable the adapter within the context."""
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    def other_adapter(self, folder: Path, config: AdapterConfig) -> AbstractContextManager[None]:
        """Replace the adapter by a saved one within the context; see `adapter.other_adapter`."""
        return other_adapter(self.transformer, folder, config, cast=self._casts)

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the adapter's parameters by their names in peft's layout."""
        return trainable_parameters(self.transformer)
