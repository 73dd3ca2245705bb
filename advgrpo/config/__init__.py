"""Settings of a run: pydantic models only, so that reading them needs neither torch nor kfp."""

from advgrpo.config.base import Location, Section, Weights
from advgrpo.config.discriminator import (
    DinoDiscriminatorConfig,
    DiscriminatorConfig,
    PickScoreDiscriminatorConfig,
    PromptConditioningConfig,
)
from advgrpo.config.evaluation import DistanceConfig, EvaluationConfig
from advgrpo.config.policy import AdapterConfig, SamplingConfig, Sd3PolicyConfig
from advgrpo.config.promotion import PromotionConfig
from advgrpo.config.reference_images import PromptsConfig, ReferenceImagesConfig
from advgrpo.config.run import RunConfig, parse, preset_names, resolve
from advgrpo.config.scorers import PickScoreConfig
from advgrpo.config.training import TrainingConfig

__all__ = [
    "AdapterConfig",
    "DinoDiscriminatorConfig",
    "DiscriminatorConfig",
    "DistanceConfig",
    "EvaluationConfig",
    "Location",
    "PickScoreConfig",
    "PickScoreDiscriminatorConfig",
    "PromotionConfig",
    "PromptConditioningConfig",
    "PromptsConfig",
    "ReferenceImagesConfig",
    "RunConfig",
    "SamplingConfig",
    "Sd3PolicyConfig",
    "Section",
    "TrainingConfig",
    "Weights",
    "parse",
    "preset_names",
    "resolve",
]
