"""Evaluation of a trained adapter: prompts, images, metrics and the report."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from advgrpo.config.base import NonNegativeFloat, NonNegativeInt, PositiveInt, Section, Weights
from advgrpo.config.scorers.union import ScorerConfig


class DistanceConfig(Section):
    """Distance between two sets of images in a frozen feature space."""

    weights: Weights
    """The DINOv2 backbone whose class token is the feature."""

    resolution_pixels: PositiveInt = 518
    """Side length that images are resized to."""


class CmmdConfig(Section):
    """CMMD, arXiv:2401.09603: distance between two sets of images by their CLIP embeddings."""

    weights: Weights
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

    # Published results are often of more steps than a rollout has: 40 in the released code.
    num_inference_steps: PositiveInt | None = None
    """Steps from noise to image in the evaluation, of held-out training prompts, in `advgrpo
    generate` and of registered models; none takes those of `training.sampling`."""

    # Not that of the run: runs with other seeds are compared on the same noise.
    seed: NonNegativeInt = 1234
    """Seed of the images, apart from the run's own."""

    distance: DistanceConfig
    cmmd: CmmdConfig | None = None
    """A second distance, without assumptions on the shape of the distributions; none omits it."""

    scorers: tuple[ScorerConfig, ...] = ()
    """Frozen scorers, at most one of each type. The report separates those that the run's reward
    was trained on."""

    alignment: str
    """Metric of prompt alignment in the summary, as `scorer.metric`."""

    bootstrap_samples: PositiveInt = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    grid_prompts: PositiveInt = 8
    """Prompts shown in the report's image grids."""

    price_per_hour: NonNegativeFloat | None = None
    """Price of an hour of one GPU, or of one process if no task of the run used a GPU; with it, the
    report includes the cost of the run. CPU-hours of a run on GPUs have no price."""

    currency: Annotated[str, Field(min_length=1)] = "USD"
    """Currency of the price."""

    @model_validator(mode="after")
    def _names_of_scorers_are_unique(self) -> Self:
        names = [scorer.metric_prefix for scorer in self.scorers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"evaluation.scorers has {twice[0]} more than once: the names of its metrics would "
                "be equal, so remove one"
            )
        return self

    @model_validator(mode="after")
    def _alignment_is_a_metric_of_its_scorer(self) -> Self:
        for scorer in self.scorers:
            name, known = scorer.metric_prefix, scorer.metric_names
            # An unknown scorer is reported by `RunConfig`.
            if self.alignment.partition(".")[0] == name and self.alignment not in known:
                raise ValueError(
                    f"evaluation.alignment={self.alignment!r} is not a metric of {name}: use "
                    f"{' or '.join(known)}"
                )
        return self
