"""Settings of the discriminator, the reward being trained."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from advgrpo.config.base import (
    Fraction,
    FrozenPrecision,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Weights,
)


class DiscriminatorOptimizerConfig(Section):
    """The discriminator's optimizer, Adam."""

    # Learning rate and betas of the released code.
    learning_rate: PositiveFloat = 1e-4
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    batch_size: PositiveInt = 128
    """Reference images of a step over all ranks; a step takes equally many generated images."""

    # Without replay, the discriminator forgets earlier images of the policy.
    replay_fraction: Fraction = 0.5
    """Share of a step's generated images that come from earlier rollouts."""

    replay_images: NonNegativeInt = 1024
    """Generated images of earlier rollouts that are kept, as features, over all ranks."""


class PretrainingConfig(Section):
    """Training of the discriminator on base-model images, before the first update."""

    images: PositiveInt = 512
    """Base-model images that it is trained on."""

    held_out_images: PositiveInt = 128
    """Base-model images of held-out prompts, besides, that it is measured on."""

    steps: NonNegativeInt = 200
    """Maximum number of optimizer steps."""

    # On held-out images, because accuracy on training images hides memorization.
    target_accuracy: Fraction = 0.99
    """Stop when this share of held-out images is classified correctly."""


class PromptConditioningConfig(Section):
    """Conditioning of the discriminator on the prompt, which penalizes off-prompt images."""

    text_encoder: Weights
    """A CLIP text model with projection."""

    tokenizer: Weights
    """Its tokenizer."""

    mismatched_fraction: Fraction = 0.5
    """Weight of reference images with another prompt among the negatives."""


class _BaseDiscriminatorConfig(Section):
    """Settings that all discriminators share."""

    # Cannot be 0: memorization of the training images would not be noticed.
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training prompts whose reference images do not train the discriminator but
    measure it."""

    feature_batch_size: PositiveInt = 64
    """Batch size of the frozen part, in images."""

    # bfloat16 changes ranks; docs/experiments.md has both.
    frozen_precision: FrozenPrecision = "auto"
    """Precision of products in the frozen part, whose weights and sums are float32: `auto` is TF32
    on GPUs that have it, which keeps the ranks of images. The trained part is always float32."""

    optimizer: DiscriminatorOptimizerConfig = DiscriminatorOptimizerConfig()
    pretraining: PretrainingConfig = PretrainingConfig()


def _no_layer_twice(layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if layers is not None and len(set(layers)) < len(layers):
        raise ValueError("a layer is listed twice; each has one head")
    return layers


class DinoDiscriminatorConfig(_BaseDiscriminatorConfig):
    """Heads on the tokens of a frozen vision backbone: DINOv2 or another."""

    type: Literal["dino"] = "dino"

    weights: Weights
    """The backbone: DINOv2 with or without registers, DINOv3 (vision transformer), SigLIP or
    SigLIP 2, as its `config.json` says."""

    # 37 x 37 patches of 14 pixels, the size of DINOv2's own position table.
    resolution_pixels: PositiveInt = 518
    """Side length that images are resized to (bicubic, antialiased)."""

    hidden_width: PositiveInt = 512
    """Width of a head's hidden layer."""

    layers: Annotated[
        tuple[PositiveInt, ...] | None, Field(min_length=1), AfterValidator(_no_layer_twice)
    ] = None
    """Transformer layers of the backbone, counted from 1, each with its own head; reward and loss
    are the means over the heads. None uses the last layer. Features are stored for each layer."""

    # One setting for both: the released code trains on raw tokens and scores normalized ones, which
    # shrinks the reward 50 to 90 fold.
    token_normalization: Literal["none", "l2"] = "none"
    """Normalization of tokens before the head, in training and rewarding alike."""

    # Not drawn again for each call: an image must have exactly one reward.
    patches: PositiveInt | None = None
    """Number of patch tokens of an image that are used, a fixed choice that depends on the number
    alone; none uses all."""

    # The released weights of the loss; the paper has 7:3.
    cls_loss_weight: NonNegativeFloat = 1.0
    patch_loss_weight: NonNegativeFloat = 0.3
    # Weights of the reward, which the released code sets independently of those of the loss.
    cls_reward_weight: NonNegativeFloat = 0.7
    patch_reward_weight: NonNegativeFloat = 0.3

    gradient_penalty_weight: NonNegativeFloat = 0.0
    """Weight of R1, half the squared gradient of a reference token's logit by the token. It keeps
    heads flat where reference and generated images do not differ."""

    # An unconditional discriminator does not punish images that ignore their prompt.
    prompt_conditioning: PromptConditioningConfig | None = None


class PickScoreDiscriminatorConfig(_BaseDiscriminatorConfig):
    """PickScore whose last vision blocks are trained to prefer reference images."""

    type: Literal["pickscore"] = "pickscore"

    weights: Weights
    """A CLIP model with its processor's and tokenizer's files."""

    trained_blocks: PositiveInt = 1
    """Number of last vision blocks that are trained: 1 in the released code, 2 in the paper."""

    feature_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen blocks' output, in training and rewarding alike. For CLIP ViT-H/14 it
    takes 1.3 MB per image in float32."""

    # The released rate for tuning pre-trained blocks, far below that for a new head.
    optimizer: DiscriminatorOptimizerConfig = DiscriminatorOptimizerConfig(learning_rate=5e-6)


DiscriminatorConfig = Annotated[
    DinoDiscriminatorConfig | PickScoreDiscriminatorConfig, Field(discriminator="type")
]
