"""Memory of a training process, on its GPU and on its host."""

from advgrpo.config.discriminator import DinoDiscriminatorConfig
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import TrainingSettings
from advgrpo.planning.architectures import linear
from advgrpo.planning.encoder_architectures import Clip
from advgrpo.planning.models import Models
from advgrpo.planning.parts import BYTES, FLOAT32, Part
from advgrpo.planning.vision import VisionBackbone

# SD3 pads the CLIP embeddings to this length, whatever the prompt.
CLIP_TEXT_TOKENS = 77
# Of the VAEs of SD3; only used if the VAE's configuration is unknown.
USUAL_STRIDE = 8
ADAM_STATES = 3
"""A float32 master weight and two moments."""

SAVED_BYTES = 34
"""Bytes that a layer stores for the backward pass, per token and channel, in 16 bits and without
attention scores; 11 of them are the attention's. Korthikanti et al., arXiv:2205.05198."""

ATTENTION_SAVED_BYTES = 11
ADAPTER_SAVED_BYTES = 16
"""Bytes of the float32 copies that the adapter stores of the inputs of four projections."""


def gpu_memory(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> list[Part]:
    """Return the memory of one GPU in training, by part.

    Weights and optimizer states are exact, activations are estimates.
    """
    return [
        _transformer(run, models, gpus),
        _adapter(run, models, gpus),
        _weights("VAE", models.vae_parameters, run.policy.decode_dtype),
        *_discriminator(run, models),
        *(_weights(name, count, "float32") for name, count in models.scorer_parameters.items()),
        _rollout(run, models, gpus),
        _update_activations(run, models),
        _decode_activations(run, models),
        _feature_activations(run, models),
        _discriminator_activations(run, models, gpus),
    ]


def encoding_memory(run: RunConfig | TrainingSettings, models: Models) -> Part:
    """Return the host memory of a process that encodes prompts; see `Plan.encoding_memory`."""
    return _weights("text encoders", models.text_encoder_parameters, run.policy.text_dtype)


def host_memory(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> list[Part]:
    """Return the host memory of one training process, by part."""
    replay = feature_bytes(run, models)
    images = run.training.rollout.prompts_per_update * run.training.rollout.group_size
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
        count = adapter_parameters(run, models)
        # Rounded up: ZeRO pads its partitions to equal sizes.
        states = None if count is None else -(-ADAM_STATES * count // gpus) * FLOAT32
        parts.append(Part("offloaded optimizer", states, f"{ADAM_STATES} states over {gpus} GPUs"))
    if run.training.offload == "optimizer_and_weights":
        model, dtype = models.transformer, run.policy.forward_dtype
        held = None if model is None else -(-model.parameters * BYTES[dtype] // gpus)
        parts.append(Part("offloaded weights", held, f"the transformer's, over {gpus} GPUs"))
    return parts


def adapter_parameters(run: RunConfig | TrainingSettings, models: Models) -> int | None:
    """Return the number of adapter parameters, None if the transformer or a target is unknown."""
    adapter = run.policy.adapter
    if models.transformer is None:
        return None
    return models.transformer.adapter_parameters(adapter.rank, adapter.target_modules)


def discriminator_parameters(run: RunConfig | TrainingSettings, models: Models) -> int | None:
    """Return the number of trained parameters of the discriminator, None if unknown."""
    config, backbone = run.discriminator, models.backbone
    if isinstance(config, DinoDiscriminatorConfig):
        if not isinstance(backbone, VisionBackbone):
            return None
        head = linear(backbone.width, config.hidden_width) + linear(config.hidden_width, 1)
        if config.prompt_conditioning is None:
            return _heads(config) * head
        if models.prompt_encoder is None:
            return None
        # The projection of the prompt has no bias.
        return _heads(config) * (head + models.prompt_encoder.projection * config.hidden_width)
    if not isinstance(backbone, Clip):
        return None
    # The final norm and the projection of CLIP stay frozen.
    return config.trained_blocks * backbone.vision.layer_parameters


def feature_bytes(run: RunConfig | TrainingSettings, models: Models) -> int | None:
    """Return the bytes of an image's features, as they are cached and replayed."""
    config, backbone = run.discriminator, models.backbone
    if isinstance(config, DinoDiscriminatorConfig):
        if not isinstance(backbone, VisionBackbone):
            return None
        # The class token, and the chosen patches.
        tokens = 1 + (config.patches or backbone.patches(config.resolution_pixels))
        return _heads(config) * tokens * backbone.width * FLOAT32
    if not isinstance(backbone, Clip):
        return None
    # The trained blocks need all tokens, of an image in the resolution of CLIP's processor.
    tokens = backbone.vision.tokens(backbone.vision.pixels)
    return tokens * backbone.vision.width * BYTES[config.feature_dtype]


def _heads(config: DinoDiscriminatorConfig) -> int:
    """Return the number of heads, one per layer whose tokens are used."""
    return 1 if config.layers is None else len(config.layers)


def images_per_gpu(run: RunConfig | TrainingSettings, gpus: int) -> int:
    """Return the number of images of a rollout per GPU."""
    rollout = run.training.rollout
    # Exact for every number of GPUs that `RunConfig.check_ranks` accepts.
    return rollout.prompts_per_update * rollout.group_size // gpus


def _weights(name: str, count: int | None, dtype: str, note: str = "") -> Part:
    if count is None:
        return Part(name, None, "its location has no readable config.json")
    how = f"{note}{count / 1e6:,.1f} million parameters in {dtype}"
    return Part(name, count * BYTES[dtype], how)


def _transformer(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> Part:
    model, dtype = models.transformer, run.policy.forward_dtype
    if model is None:
        return _weights("transformer", models.transformer_parameters, dtype)
    part = _weights("transformer", model.parameters, dtype)
    table = model.position_values * BYTES[dtype]
    if run.training.zero_stage == 3:
        # ZeRO 3 partitions parameters only. Each GPU has all position embeddings, a buffer.
        layer = model.parameters * BYTES[dtype] // model.layers
        share = (part.bytes or 0) // gpus if run.training.offload != "optimizer_and_weights" else 0
        how = f"{part.how}, sharded over {gpus} GPUs, and two gathered layers"
        return Part(part.name, share + 2 * layer + table, how)
    return Part(part.name, (part.bytes or 0) + table, f"{part.how}, and position embeddings")


def _adapter(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> Part:
    name, count = "adapter and optimizer", adapter_parameters(run, models)
    if count is None:
        return Part(name, None, "unknown for policy.adapter.target_modules of this model")
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


def _discriminator(run: RunConfig | TrainingSettings, models: Models) -> list[Part]:
    backbone = models.backbone
    parts = [
        _weights("discriminator backbone", backbone.parameters if backbone else None, "float32")
    ]
    trained = discriminator_parameters(run, models)
    parts.append(
        Part(
            "discriminator's trained part",
            None if trained is None else (1 + ADAM_STATES) * trained * FLOAT32,
            "float32: weight, gradient and two moments",
        )
    )
    config, encoder = run.discriminator, models.prompt_encoder
    if isinstance(config, DinoDiscriminatorConfig) and config.prompt_conditioning is not None:
        count = encoder.parameters if encoder else None
        parts.append(_weights("discriminator's text encoder", count, "float32"))
    return parts


def _rollout(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> Part:
    images, pixels = images_per_gpu(run, gpus), run.policy.resolution_pixels
    # 16 as in SD3, so that images and features count even if the transformer is unknown.
    channels = models.transformer.in_channels if models.transformer else 16
    steps = run.training.algorithm.recorded_latents
    latents = steps * channels * _latent_side(run, models) ** 2 * FLOAT32
    features = feature_bytes(run, models)
    each = latents + 3 * pixels**2 * FLOAT32 + (features or 0)
    how = f"{images} images: latents of {steps} steps, RGB and features, float32"
    return Part("rollout", images * each, how)


def _latent_side(run: RunConfig | TrainingSettings, models: Models) -> int:
    stride = models.vae.stride if models.vae else USUAL_STRIDE
    return run.policy.resolution_pixels // stride


def _tokens(run: RunConfig | TrainingSettings, models: Models, patch_size: int) -> int:
    """Return the number of tokens in the transformer: those of an image and of its prompt."""
    # The text stream has the CLIP tokens followed by those of T5.
    side = _latent_side(run, models) // patch_size
    return side**2 + CLIP_TEXT_TOKENS + run.policy.max_sequence_length


def guidance_passes(run: RunConfig | TrainingSettings) -> int:
    """Return the passes of an image per denoising step: two with guidance."""
    return run.policy.guidance_passes(run.training.sampling.guidance_scale)


def _update_activations(run: RunConfig | TrainingSettings, models: Models) -> Part:
    name, model = "activations of the update (estimate)", models.transformer
    if model is None:
        return Part(name, None, "the transformer is unknown", is_transient=True)
    sequences = run.training.rollout.microbatch_of_update * guidance_passes(run)
    numbers = sequences * _tokens(run, models, model.patch_size) * model.width
    scale = BYTES[run.policy.forward_dtype] // 2
    layer = SAVED_BYTES * scale + ADAPTER_SAVED_BYTES
    dual = ATTENTION_SAVED_BYTES * scale
    if run.policy.gradient_checkpointing:
        one = numbers * (layer + (dual if model.dual_layers else 0))
        # Only with checkpointing: without it, the activations of both passes are kept.
        if run.policy.guidance == "two_passes":
            one //= guidance_passes(run)
        saved = numbers * 2 * scale * model.layers + one
        how = f"{sequences} sequences; the input of each layer, and one layer in full"
    else:
        saved = numbers * (layer * model.layers + dual * model.dual_layers)
        how = f"{sequences} sequences, {layer} bytes per token, channel and layer"
    return Part(name, saved, how, is_transient=True)


def _decode_activations(run: RunConfig | TrainingSettings, models: Models) -> Part:
    name = "activations of the VAE (estimate)"
    if models.vae is None:
        return Part(name, None, "the VAE is unknown", is_transient=True)
    channels, sampled = models.vae.widest_at_full_resolution, run.training.rollout.microbatch_size
    batch = min(sampled, run.policy.decode_batch_size or sampled)
    one = channels * run.policy.resolution_pixels**2 * BYTES[run.policy.decode_dtype]
    how = f"{batch} images, three feature maps of {channels} channels"
    return Part(name, 3 * batch * one, how, is_transient=True)


def _feature_activations(run: RunConfig | TrainingSettings, models: Models) -> Part:
    name, backbone = "activations of the backbone (estimate)", models.backbone
    batch = run.discriminator.feature_batch_size
    match backbone:
        case VisionBackbone():
            vision = backbone
            # For the type checker: `models_of` reads such a backbone for this discriminator alone.
            assert isinstance(run.discriminator, DinoDiscriminatorConfig)
            tokens = vision.tokens(run.discriminator.resolution_pixels)
        case Clip(vision=vision):
            tokens = vision.tokens(vision.pixels)
        case _:
            return Part(name, None, "the backbone is unknown", is_transient=True)
    # The backbone runs without gradient: only the activations of one layer exist at a time.
    numbers = batch * tokens * (4 * vision.width + vision.hidden)
    how = f"{batch} images at once (discriminator.feature_batch_size), float32"
    return Part(name, numbers * FLOAT32, how, is_transient=True)


def _discriminator_activations(
    run: RunConfig | TrainingSettings, models: Models, gpus: int
) -> Part:
    name, config = "activations of the discriminator's step", run.discriminator
    features, share = feature_bytes(run, models), config.optimizer.batch_size // gpus
    if features is None:
        return Part(name, None, "the backbone is unknown", is_transient=True)
    if isinstance(config, DinoDiscriminatorConfig):
        assert isinstance(models.backbone, VisionBackbone)
        # Reference and generated images; with conditioning also reference images with wrong
        # prompts.
        kinds = 2 if config.prompt_conditioning is None else 3
        # A token, the hidden layer, and the output of its activation function.
        growth = 1 + 2 * config.hidden_width / models.backbone.width
        each = round(features * growth)
        how = f"{kinds} x {share} images (discriminator.optimizer.batch_size over GPUs)"
    else:
        # The trained blocks compute in float32, whatever the precision of the cached features.
        kinds, numbers = 2, features // BYTES[config.feature_dtype]
        each = numbers * config.trained_blocks * SAVED_BYTES * BYTES["float32"] // 2
        how = f"{kinds} x {share} images through {config.trained_blocks} trained block(s), float32"
    return Part(name, kinds * share * each, how, is_transient=True)
