"""The reward being trained."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

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


class _Trained(Section):
    """What training needs to know of any discriminator."""

    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training prompts whose reference images never train the discriminator and
    measure it."""

    feature_batch_size: PositiveInt = 64
    """Images that pass the frozen part at once."""

    optimizer: DiscriminatorOptimizerConfig = DiscriminatorOptimizerConfig()
    pretraining: PretrainingConfig = PretrainingConfig()


def _no_layer_twice(layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if layers is not None and len(set(layers)) < len(layers):
        raise ValueError("a layer is named twice; each has one head")
    return layers


class DinoDiscriminatorConfig(_Trained):
    """Heads on the tokens of a frozen vision backbone: DINOv2 or another."""

    type: Literal["dino"] = "dino"

    weights: Weights
    """The backbone: DINOv2 with or without registers, DINOv3 (a vision transformer), SigLIP or
    SigLIP 2; which it is, its `config.json` says."""

    resolution_pixels: PositiveInt = 518
    """Side length that images are resized to (bicubic, antialiased)."""

    hidden_width: PositiveInt = 512
    """Width of a head's hidden layer."""

    layers: Annotated[
        tuple[PositiveInt, ...] | None, Field(min_length=1), AfterValidator(_no_layer_twice)
    ] = None
    """Transformer layers of the backbone, counted from 1, that each have a head of their own; the
    reward and the loss are the heads' means. None takes the last one alone. Features are kept of
    each layer."""

    token_normalization: Literal["none", "l2"] = "none"
    """What is done to a token before the head, in training and in rewarding alike."""

    patches: PositiveInt | None = None
    """How many patch tokens of an image are used: a fixed seeded choice, or all."""

    cls_loss_weight: NonNegativeFloat = 1.0
    patch_loss_weight: NonNegativeFloat = 0.3
    cls_reward_weight: NonNegativeFloat = 0.7
    patch_reward_weight: NonNegativeFloat = 0.3

    gradient_penalty_weight: NonNegativeFloat = 0.0
    """Weight of R1, half the squared gradient of a reference token's logit towards the token: keeps
    heads from growing steep where there is nothing to tell apart."""

    prompt_conditioning: PromptConditioningConfig | None = None


class PickScoreDiscriminatorConfig(_Trained):
    """PickScore, of which the last vision blocks are trained to prefer reference images."""

    type: Literal["pickscore"] = "pickscore"

    weights: Weights
    """A CLIP model with its processor's and tokenizer's files."""

    trained_blocks: PositiveInt = 1
    """How many of the last vision blocks are trained: 1 in the released code, 2 in the paper."""

    feature_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which the frozen blocks' output is kept, for training and rewarding alike. Of
    CLIP ViT-H/14 it takes 1.3 MB an image in float32."""

    optimizer: DiscriminatorOptimizerConfig = DiscriminatorOptimizerConfig(learning_rate=5e-6)


DiscriminatorConfig = Annotated[
    DinoDiscriminatorConfig | PickScoreDiscriminatorConfig, Field(discriminator="type")
]
