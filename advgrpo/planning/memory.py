"""Memory of a training process, on its GPU and on its host."""

import math
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import TrainingSettings
from advgrpo.models.meta import META
from advgrpo.models.policies import quantization
from advgrpo.models.policies.compilation import repeated_blocks
from advgrpo.models.policies.transformer_policy import TransformerPolicy
from advgrpo.planning.activations import peak_bytes, saved_bytes
from advgrpo.planning.discriminator import (
    discriminator_activations,
    discriminator_memory,
    feature_activations,
    feature_bytes,
)
from advgrpo.planning.parts import ADAM_STATES, FLOAT32, Models, Part, weights_part
from advgrpo.planning.work import images_per_gpu


def gpu_memory(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> list[Part]:
    """Return the memory of one GPU in training, by part.

    Weights and optimizer states are exact, activations are estimates.
    """
    return [
        _transformer(run, models, gpus),
        _adapter(run, models, gpus),
        _vae(run, models),
        *discriminator_memory(run, models),
        *(weights_part(name, count, "float32") for name, count in models.scorer_parameters.items()),
        _rollout(run, models, gpus),
        _update_activations(run, models),
        _decode_activations(run, models),
        feature_activations(run, models),
        discriminator_activations(run, models, gpus),
    ]


def encoding_memory(run: RunConfig | TrainingSettings, models: Models) -> Part:
    """Return the host memory of a process that encodes prompts; see `Plan.encoding_memory`."""
    return weights_part("text encoders", models.text_encoder_parameters, run.policy.text_dtype)


def host_memory(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> list[Part]:
    """Return the host memory of one training process, by part."""
    replay = feature_bytes(run, models)
    rollout = run.training.rollout
    # Of the rollouts that train the policy again, each process holds its own images.
    images = rollout.images + rollout.replayed_rollouts * images_per_gpu(run, gpus)
    replayed = run.discriminator.optimizer.replay_images
    return [
        Part(
            "features of rollout and replay",
            None if replay is None else replay * (images + replayed),
            f"{images} + {replayed} images, in each process",
        ),
        *_offload_parts(run, models, gpus),
    ]


def _offload_parts(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> list[Part]:
    """Return the memory that is offloaded from a GPU to its host."""
    parts = []
    if run.training.offload != "none":
        count = adapter_parameters(models)
        # Rounded up: ZeRO pads its partitions to equal sizes.
        states = None if count is None else -(-ADAM_STATES * count // gpus) * FLOAT32
        parts.append(Part("offloaded optimizer", states, f"{ADAM_STATES} states over {gpus} GPUs"))
    if run.training.offload == "optimizer_and_weights":
        held = None if isinstance(models.policy, str) else _bytes(models.policy.transformer)
        share = None if held is None else -(-held // gpus)
        parts.append(Part("offloaded weights", share, f"the transformer's, over {gpus} GPUs"))
    return parts


def adapter_parameters(models: Models) -> int | None:
    """Return the number of adapter parameters, None if the policy is unknown."""
    if isinstance(models.policy, str):
        return None
    return _adapter_size(models.policy)


# Cached as the policies are: a large transformer has thousands of parameters.
@lru_cache(maxsize=16)
def _adapter_size(policy: TransformerPolicy) -> int:
    return sum(each.numel() for each in policy.trainable_parameters().values())


@lru_cache(maxsize=64)
def _bytes(module: Any) -> int:  # noqa: ANN401 - diffusers has no types
    """Return the size of a module's frozen weights and of its buffers."""
    frozen = sum(each.nbytes for each in module.parameters() if not each.requires_grad)
    return int(frozen + sum(each.nbytes for each in module.buffers()))


def _frozen(name: str, module: Any, dtype: str) -> Part:  # noqa: ANN401
    count = sum(each.numel() for each in module.parameters() if not each.requires_grad)
    return Part(name, _bytes(module), f"{count / 1e6:,.1f} million parameters in {dtype}")


def _vae(run: RunConfig | TrainingSettings, models: Models) -> Part:
    if isinstance(models.policy, str):
        return Part("VAE", None, models.policy)
    return _frozen("VAE", models.policy.vae, run.policy.decode_dtype)


def _transformer(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> Part:
    if isinstance(models.policy, str):
        return Part("transformer", None, models.policy)
    transformer = models.policy.transformer
    part = _frozen("transformer", transformer, run.policy.forward_dtype)
    if run.policy.quantization == "int8":
        smaller = (part.bytes or 0) - quantization.saved_bytes(transformer)
        return replace(part, bytes=smaller, how=f"{part.how}, those of layers in int8")
    if run.training.zero_stage < 3:
        return part
    # ZeRO 3 partitions parameters only; each GPU has all buffers.
    buffers = sum(each.nbytes for each in transformer.buffers())
    block = max(_bytes(each) for each in repeated_blocks(transformer))
    offloaded = run.training.offload == "optimizer_and_weights"
    share = 0 if offloaded else ((part.bytes or 0) - buffers) // gpus
    how = f"{part.how}, sharded over {gpus} GPUs, and two gathered layers"
    return Part(part.name, share + 2 * block + buffers, how)


def _adapter(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> Part:
    name, count = "adapter and optimizer", adapter_parameters(models)
    if count is None:
        return Part(name, None, "the transformer is unknown")
    # Weight, gradient, moving average, best adapter and the algorithm's copies are counted whole on
    # each GPU.
    states, copies = ADAM_STATES * count, run.training.algorithm.adapter_copies
    parts = "weight, gradient, average, best" + (f", {copies} of the algorithm" if copies else "")
    how = f"{count / 1e6:,.1f} million parameters in float32: {parts}"
    if run.training.offload != "none":
        return Part(name, (4 + copies) * count * FLOAT32, how)
    shared = states if run.training.engine == "ddp" else -(-states // gpus)
    how += f", and {ADAM_STATES} states" + (f" over {gpus} GPUs" if shared < states else "")
    return Part(name, ((4 + copies) * count + shared) * FLOAT32, how)


def _rollout(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> Part:
    images, pixels = images_per_gpu(run, gpus), run.policy.resolution_pixels
    sizes = run.training.rollout
    references = images * sizes.references_per_prompt // sizes.group_size
    policy, steps = models.policy, run.training.algorithm.recorded_latents
    # Images and features count even if the policy is unknown.
    shape = (0,) if isinstance(policy, str) else policy.latent_shape
    latents = steps * math.prod(shape) * FLOAT32
    features = feature_bytes(run, models)
    without_features = latents + 3 * pixels**2 * FLOAT32
    how = f"{images} images: latents of {steps} steps, RGB and features, float32"
    if references:
        how += f"; {references} reference images without features"
    total = images * (without_features + (features or 0)) + references * without_features
    return Part("rollout", total, how)


def _update_activations(run: RunConfig | TrainingSettings, models: Models) -> Part:
    name, policy = "activations of the update (estimate)", models.policy
    if isinstance(policy, str):
        return Part(name, None, "the transformer is unknown", is_transient=True)
    rollout = run.training.rollout
    images = rollout.microbatch_of_update
    if run.training.compile_backend(on_gpu=True) is not None:
        # Compiled, the trained steps of a rollout run as in the update.
        images = max(images, rollout.microbatch)
    recomputed = run.policy.gradient_checkpointing is True
    how = f"{images} images, with the longest prompts: " + (
        "the inputs of each layer, and one layer in full" if recomputed else "all layers"
    )
    scale, way = run.training.sampling.guidance_scale, run.policy.guidance
    # Each further image adds the same bytes.
    one, two = (_saved(policy, way, count, scale)[recomputed] for count in (1, 2))
    count = one + (images - 1) * (two - one)
    return Part(name, count, how, is_transient=True)


@lru_cache(maxsize=16)
def _saved(policy: TransformerPolicy, way: str, images: int, scale: float) -> tuple[int, int]:
    # The same models: building them takes seconds.
    guided = copy(policy)
    guided.config = policy.config.model_copy(update={"guidance": way})
    return saved_bytes(guided, images=images, guidance_scale=scale)


def _decode_activations(run: RunConfig | TrainingSettings, models: Models) -> Part:
    name, policy = "activations of the VAE (estimate)", models.policy
    if isinstance(policy, str):
        return Part(name, None, "the VAE is unknown", is_transient=True)
    sampled = run.training.rollout.microbatch
    batch = min(sampled, run.policy.decode_batch_size or sampled)
    count = _decoded(policy, batch)
    if run.training.rollout.references_per_prompt:
        count = max(count, _encoded(policy, batch))
    return Part(name, count, f"{batch} images at once", is_transient=True)


@lru_cache(maxsize=16)
def _decoded(policy: TransformerPolicy, images: int) -> int:
    latents = torch.empty((images, *policy.latent_shape), device=META)
    return peak_bytes(lambda: policy.decode(latents))


@lru_cache(maxsize=16)
def _encoded(policy: TransformerPolicy, images: int) -> int:
    pixels = policy.config.resolution_pixels
    batch = torch.empty((images, 3, pixels, pixels), device=META)
    return peak_bytes(lambda: policy.encode(batch))
