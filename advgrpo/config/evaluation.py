"""What is measured of a trained adapter, and on what."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from advgrpo.config.base import NonNegativeFloat, NonNegativeInt, PositiveInt, Section, Weights
from advgrpo.config.scorers import FrozenWeights, Scorer, metrics_of


class DistanceConfig(Section):
    """Distance between two sets of images in a frozen feature space."""

    weights: Weights
    """The DINOv2 backbone whose class token is the feature."""

    resolution_pixels: PositiveInt = 518
    """Side length that images are resized to."""


class CmmdConfig(Section):
    """CMMD, arXiv:2401.09603: distance between two sets of images by their CLIP embeddings."""

    weights: FrozenWeights
    """A CLIP model with its processor's and tokenizer's files; ViT-L/14 at 336 pixels in the
    paper."""


class EvaluationConfig(Section):
    """Base model against trained model on held-out prompts, with paired seeds."""

    prompts: PositiveInt | None = None
    """How many test prompts are used, evenly spread over the file; none uses all."""

    images_per_prompt: PositiveInt = 4
    """Images per prompt and model; the k-th image of a prompt has the same seed for each model."""

    batch_size: PositiveInt = 32
    """Images sampled at once."""

    seed: NonNegativeInt = 1234
    """Seed of the images, apart from the run's own."""

    distance: DistanceConfig
    cmmd: CmmdConfig | None = None
    """A second distance, which assumes nothing about the sets' shapes; none leaves it out."""

    scorers: tuple[Scorer, ...] = ()
    """Frozen measures, at most one of each type. The report sets apart those that the run's reward
    was trained on."""

    alignment: str
    """Which measure stands for prompt alignment in the summary, as `scorer.measure`."""

    bootstrap_samples: PositiveInt = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    grid_prompts: PositiveInt = 8
    """Prompts shown in the report's image grids."""

    price_per_hour: NonNegativeFloat | None = None
    """Price of an hour of one GPU, or of one process where there is none; with it, the report tells
    what the run cost."""

    currency: Annotated[str, Field(min_length=1)] = "USD"
    """Currency of the price."""

    @model_validator(mode="after")
    def _scorers_can_be_told_apart(self) -> Self:
        types = [scorer.type for scorer in self.scorers]
        if twice := sorted({name for name in types if types.count(name) > 1}):
            raise ValueError(
                f"evaluation.scorers has {twice[0]} more than once: measures are named by the type "
                "of their scorer, so keep one"
            )
        return self

    @model_validator(mode="after")
    def _alignment_is_a_metric_of_its_scorer(self) -> Self:
        for scorer in self.scorers:
            known = metrics_of(scorer)
            if self.alignment.partition(".")[0] == scorer.type and self.alignment not in known:
                raise ValueError(
                    f"evaluation.alignment={self.alignment!r} is no measure of {scorer.type}: use "
                    f"{' or '.join(known)}"
                )
        return self
