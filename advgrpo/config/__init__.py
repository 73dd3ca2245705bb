"""Settings of a run: pydantic models only, so that reading them needs neither torch nor kfp."""

# Nothing here may import a package of an extra: pods without torch read settings too.
from advgrpo.config.base import Location, Section, Weights
from advgrpo.config.discriminator import (
    DinoDiscriminatorConfig,
    DiscriminatorConfig,
    PickScoreDiscriminatorConfig,
    PromptConditioningConfig,
)
from advgrpo.config.evaluation import CmmdConfig, DistanceConfig, EvaluationConfig
from advgrpo.config.independence import Independence
from advgrpo.config.locations import locations, pretrained_weights
from advgrpo.config.parsing import parse
from advgrpo.config.policy import (
    AdapterConfig,
    AnyPolicyConfig,
    PolicyConfig,
    SamplingConfig,
)
from advgrpo.config.preset_files import portable_preset, preset_names, preset_title
from advgrpo.config.promotion import Gate, PromotionConfig
from advgrpo.config.reference_images import PromptsConfig, ReferenceImagesConfig
from advgrpo.config.resolution import resolve
from advgrpo.config.run import RunConfig
from advgrpo.config.training import TrainingConfig

__all__ = [
    "AdapterConfig",
    "AnyPolicyConfig",
    "CmmdConfig",
    "DinoDiscriminatorConfig",
    "DiscriminatorConfig",
    "DistanceConfig",
    "EvaluationConfig",
    "Gate",
    "Independence",
    "Location",
    "PickScoreDiscriminatorConfig",
    "PolicyConfig",
    "PromotionConfig",
    "PromptConditioningConfig",
    "PromptsConfig",
    "ReferenceImagesConfig",
    "RunConfig",
    "SamplingConfig",
    "Section",
    "TrainingConfig",
    "Weights",
    "locations",
    "parse",
    "portable_preset",
    "preset_names",
    "preset_title",
    "pretrained_weights",
    "resolve",
]
