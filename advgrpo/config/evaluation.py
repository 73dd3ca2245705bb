"""What is measured of a trained adapter, and on what."""

from typing import Annotated

from pydantic import Field

from advgrpo.config.base import NonNegativeInt, PositiveInt, Section, Weights
from advgrpo.config.scorers import Scorer


class DistanceConfig(Section):
    """Distance between two sets of images in a frozen feature space."""

    weights: Weights
    """The DINOv2 backbone whose class token is the feature."""

    resolution_pixels: PositiveInt = 518
    """Side length that images are resized to."""


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
    scorers: tuple[Scorer, ...] = ()
    """Measures that no reward of the run was trained on."""

    alignment: str
    """Which measure stands for prompt alignment in the summary, as `scorer.measure`."""

    bootstrap_samples: PositiveInt = 1000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    grid_prompts: PositiveInt = 8
    """Prompts shown in the report's image grids."""
