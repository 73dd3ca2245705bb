"""Frozen scorers, loaded from their settings."""

import importlib
from collections.abc import Iterable

import torch

from advgrpo.config.reward import RewardConfig
from advgrpo.config.scorers.base import BaseScorerConfig
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.scorers.base import BuildContext, Scorer
from advgrpo.records import ReferenceImageSet


def build_scorers(
    configs: Iterable[BaseScorerConfig],
    device: torch.device,
    reference_images: ReferenceImageSet | None = None,
) -> list[Scorer]:
    """Load the scorers of an evaluation.

    Args:
        configs: Their settings.
        device: Where they run.
        reference_images: Of the prompts that images are generated for; scorers that compare with
            them need them.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture; names the scorer.
        ConfigError: If a scorer needs a package that is not installed.
        StorageError: If a file cannot be fetched.
    """
    context = BuildContext(device, reference_images)
    return [
        _build(f"evaluation.scorers.{position}", config, context)
        for position, config in enumerate(configs)
    ]


def build_reward_scorers(
    reward: RewardConfig, device: torch.device, reference_images: ReferenceImageSet
) -> dict[str, Scorer]:
    """Load the scorers of the reward, by the name of their term. See `build_scorers`."""
    context = BuildContext(device, reference_images)
    return {
        term.name: _build(f"{setting}.scorer", term.scorer, context)
        for setting, term in reward.scorer_terms.items()
    }


def _build(setting: str, config: BaseScorerConfig, context: BuildContext) -> Scorer:
    """Load a scorer; errors name its setting."""
    # Found by name, so that a new scorer needs no list here, and so that only the packages of
    # scorers that a run uses are imported.
    module = importlib.import_module(f"advgrpo.models.scorers.{config.type}")
    try:
        scorer: Scorer = module.build(config, context)
    # A StorageError is left as it is, because it names the location.
    except WeightsError as error:
        raise WeightsError(
            f"{setting} ({config.type}) has no usable weights: {error.message}",
            repair=error.repair,
        ) from error
    except ConfigError as error:
        raise ConfigError(
            f"{setting} ({config.type}) cannot be used: {error.message}", repair=error.repair
        ) from error
    return scorer
