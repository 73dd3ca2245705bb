"""The reward being trained."""

from typing import Annotated, Literal

from pydantic import Field

from advgrpo.config.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Weights,
)


class DiscriminatorOptimizerConfig(Section):
    """Adam, as the discriminator uses it."""

    learning_rate: PositiveFloat = 1e-4
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    batch_size: PositiveInt = 128
    """Reference images of a step over all ranks; as many generated images stand against them."""

    replay_fraction: Fraction = 0.5
    """Share of a step's generated images that come from earlier rollouts."""

    replay_images: NonNegativeInt = 1024
    """Generated images of earlier rollouts that are kept, as features, over all ranks."""


class PretrainingConfig(Section):
    """Training of the discriminator on base-model images, before the first update."""

    images: PositiveInt = 512
    """Base-model images that it is trained on."""

    steps: NonNegativeInt = 200
    """Most optimizer steps."""

    target_accuracy: Fraction = 0.99
    """Stop once this share of held-out images is told apart."""


class PromptConditioningConfig(Section):
    """Let the discriminator see the prompt, so that off-prompt images are punished."""

    text_encoder: Weights
    """A CLIP text model with projection."""

    tokenizer: Weights
    """Its tokenizer."""

    mismatched_fraction: Fraction = 0.5
    """Weight of reference images with another prompt among the negatives."""


class DinoDiscriminatorConfig(Section):
    """A head on the tokens of a frozen DINOv2 backbone."""

    type: Literal["dino"] = "dino"

    weights: Weights
    """The backbone."""

    resolution_pixels: PositiveInt = 518
    """Side length that images are resized to (bicubic, antialiased)."""

    hidden_width: PositiveInt = 512
    """Width of the head's hidden layer."""

    token_normalization: Literal["none", "l2"] = "none"
    """What is done to a token before the head, in training and in rewarding alike."""

    patches: PositiveInt | None = None
    """How many patch tokens of an image are used: a fixed seeded choice, or all."""

    cls_loss_weight: NonNegativeFloat = 1.0
    patch_loss_weight: NonNegativeFloat = 0.3
    cls_reward_weight: NonNegativeFloat = 0.7
    patch_reward_weight: NonNegativeFloat = 0.3

    prompt_conditioning: PromptConditioningConfig | None = None

    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training prompts whose reference images never train the discriminator and
    measure it."""

    feature_batch_size: PositiveInt = 64
    """Images that pass the backbone at once."""

    optimizer: DiscriminatorOptimizerConfig = DiscriminatorOptimizerConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
