"""Memory of the discriminator: its weights, its features and its activations."""

from typing import Any

from advgrpo.config.discriminator import DinoDiscriminatorConfig
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import TrainingSettings
from advgrpo.models.meta import parameters
from advgrpo.planning.parts import ADAM_STATES, BYTES, FLOAT32, Models, Part, weights_part

SAVED_BYTES = 34
"""Bytes that a layer stores for the backward pass, per token and channel, in 16 bits and without
attention scores. Korthikanti et al., arXiv:2205.05198."""


def discriminator_parameters(run: RunConfig | TrainingSettings, models: Models) -> int | None:
    """Return the number of trained parameters of the discriminator, None if unknown."""
    config, backbone = run.discriminator, models.backbone
    if isinstance(backbone, str) or isinstance(models.prompt_encoder, str):
        return None
    if not isinstance(config, DinoDiscriminatorConfig):
        # The final norm and the projection of CLIP stay frozen.
        trained = backbone.vision_model.encoder.layers[-config.trained_blocks :]
        return parameters(trained)
    width, hidden = backbone.config.hidden_size, config.hidden_width
    head = (width + 1) * hidden + hidden + 1
    if models.prompt_encoder is not None:
        # The projection of the prompt has no bias.
        head += models.prompt_encoder.config.projection_dim * hidden
    return _heads(config) * int(head)


def feature_bytes(run: RunConfig | TrainingSettings, models: Models) -> int | None:
    """Return the bytes of an image's features, as they are cached and replayed."""
    config, backbone = run.discriminator, models.backbone
    if isinstance(backbone, str):
        return None
    if isinstance(config, DinoDiscriminatorConfig):
        patches = (config.resolution_pixels // backbone.config.patch_size) ** 2
        # The class token, and the chosen patches.
        tokens = 1 + (config.patches or patches)
        return _heads(config) * tokens * int(backbone.config.hidden_size) * FLOAT32
    vision = backbone.config.vision_config
    # The trained blocks need all tokens, of an image in the resolution of CLIP's processor.
    return _clip_tokens(vision) * int(vision.hidden_size) * BYTES[config.feature_dtype]


def _clip_tokens(vision: Any) -> int:  # noqa: ANN401 - transformers' configuration
    return 1 + int(vision.image_size // vision.patch_size) ** 2


def _heads(config: DinoDiscriminatorConfig) -> int:
    """Return the number of heads, one per layer whose tokens are used."""
    return 1 if config.layers is None else len(config.layers)


def discriminator_memory(run: RunConfig | TrainingSettings, models: Models) -> list[Part]:
    """Return the weights of the discriminator, and the states of its optimizer."""
    backbone = models.backbone
    count = backbone if isinstance(backbone, str) else parameters(backbone)
    parts = [weights_part("discriminator backbone", count, "float32")]
    trained = discriminator_parameters(run, models)
    parts.append(
        Part(
            "discriminator's trained part",
            None if trained is None else (1 + ADAM_STATES) * trained * FLOAT32,
            "float32: weight, gradient and two moments",
        )
    )
    if (encoder := models.prompt_encoder) is not None:
        count = encoder if isinstance(encoder, str) else parameters(encoder)
        parts.append(weights_part("discriminator's text encoder", count, "float32"))
    return parts


def feature_activations(run: RunConfig | TrainingSettings, models: Models) -> Part:
    """Return the activations of the frozen backbone."""
    name, backbone = "activations of the backbone (estimate)", models.backbone
    if isinstance(backbone, str):
        return Part(name, None, "the backbone is unknown", is_transient=True)
    config, batch = run.discriminator, run.discriminator.feature_batch_size
    if isinstance(config, DinoDiscriminatorConfig):
        vision = backbone.config
        tokens = 1 + (config.resolution_pixels // vision.patch_size) ** 2
    else:
        vision = backbone.config.vision_config
        tokens = _clip_tokens(vision)
    # The backbone runs without gradient: only the activations of one layer exist at a time, and
    # the hidden layer is four times as wide as a token.
    numbers = int(batch * tokens * 8 * vision.hidden_size)
    how = f"{batch} images at once (discriminator.feature_batch_size), float32"
    return Part(name, numbers * FLOAT32, how, is_transient=True)


def discriminator_activations(run: RunConfig | TrainingSettings, models: Models, gpus: int) -> Part:
    """Return the activations of an optimizer step of the discriminator."""
    name, config = "activations of the discriminator's step", run.discriminator
    features, share = feature_bytes(run, models), config.optimizer.batch_size // gpus
    if features is None:
        return Part(name, None, "the backbone is unknown", is_transient=True)
    if isinstance(config, DinoDiscriminatorConfig):
        # Reference and generated images; with conditioning also reference images with wrong
        # prompts.
        kinds = 2 if config.prompt_conditioning is None else 3
        # A token, the hidden layer, and the output of its activation function.
        growth = 1 + 2 * config.hidden_width / models.backbone.config.hidden_size
        each = round(features * growth)
        how = f"{kinds} x {share} images (discriminator.optimizer.batch_size over GPUs)"
    else:
        # The trained blocks compute in float32, whatever the precision of the cached features.
        kinds, numbers = 2, features // BYTES[config.feature_dtype]
        each = numbers * config.trained_blocks * SAVED_BYTES * BYTES["float32"] // 2
        how = f"{kinds} x {share} images through {config.trained_blocks} trained block(s), float32"
    return Part(name, kinds * share * each, how, is_transient=True)
