"""Frozen scorers, built from their settings."""

from collections.abc import Iterable

import torch

from advgrpo.config import PickScoreConfig
from advgrpo.config.reward import RewardConfig
from advgrpo.config.scorers import (
    AestheticConfig,
    ClipScoreConfig,
    ExternalJudgeConfig,
    HpsConfig,
    OcrConfig,
    PocketJudgeConfig,
    ReferenceSimilarityConfig,
)
from advgrpo.config.scorers import Scorer as ScorerConfig
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.scorers.aesthetic import Aesthetic
from advgrpo.models.scorers.base import Scorer
from advgrpo.models.scorers.clip_score import ClipScore
from advgrpo.models.scorers.external_judge import ExternalJudge, parse_metadata
from advgrpo.models.scorers.hps import Hps
from advgrpo.models.scorers.ocr import Ocr, rapid_reader
from advgrpo.models.scorers.pickscore import PickScore
from advgrpo.models.scorers.reference_similarity import ReferenceSimilarity
from advgrpo.pocket.judge import PocketJudgeScorer
from advgrpo.records import ReferenceImageSet
from advgrpo.storage import local_file, local_folder

POCKET_JUDGE = "package://advgrpo.pocket/weights/judge"


def build_scorers(
    configs: Iterable[ScorerConfig],
    device: torch.device,
    reference_images: ReferenceImageSet | None = None,
) -> list[Scorer]:
    """Load frozen measures.

    Args:
        configs: Those that are asked for.
        device: Where they run.
        reference_images: Of the prompts that will be drawn; measures that compare with them need
            them.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture; names the scorer.
        ConfigError: If a scorer needs what is not installed.
        StorageError: If a file cannot be fetched.
    """
    return [
        _named_scorer(f"evaluation.scorers.{position}", config, device, reference_images)
        for position, config in enumerate(configs)
    ]


def build_reward_scorers(
    reward: RewardConfig, device: torch.device, reference_images: ReferenceImageSet
) -> dict[str, Scorer]:
    """Load the frozen measures that reward, by the type of their term. See `build_scorers`."""
    return {
        term.type: _named_scorer(setting, term, device, reference_images)
        for setting, term in reward.scorers.items()
    }


def _named_scorer(
    setting: str,
    config: ScorerConfig,
    device: torch.device,
    reference_images: ReferenceImageSet | None,
) -> Scorer:
    """Load a scorer, and say which setting asked for it if it cannot be loaded."""
    try:
        return _build_scorer(config, device, reference_images)
    except WeightsError as error:
        raise WeightsError(
            f"{setting} ({config.type}) has no usable weights: {error.message}",
            repair=error.repair,
        ) from error
    except ConfigError as error:
        raise ConfigError(
            f"{setting} ({config.type}) cannot be used: {error.message}", repair=error.repair
        ) from error


def _build_scorer(  # noqa: PLR0911 - one for each type
    config: ScorerConfig, device: torch.device, reference_images: ReferenceImageSet | None
) -> Scorer:
    match config:
        case PickScoreConfig():
            return PickScore(config.weights, device)
        case ClipScoreConfig():
            return ClipScore(config.weights, device, prefix=config.prefix)
        case HpsConfig():
            return Hps(config.weights, device)
        case AestheticConfig():
            return Aesthetic(config.clip, config.predictor, device)
        case OcrConfig():
            return Ocr(rapid_reader())
        case ReferenceSimilarityConfig():
            backbone = DinoBackbone(
                config.weights, resolution_pixels=config.resolution_pixels, device=device
            )
            if reference_images is None:
                raise ConfigError(
                    f"{config.type} compares with reference images, and there are none here",
                    repair="use it in an evaluation",
                )
            return ReferenceSimilarity(backbone, reference_images)
        case ExternalJudgeConfig():
            return _external_judge(config)
        case PocketJudgeConfig():
            return PocketJudgeScorer.load(local_folder(POCKET_JUDGE))


def _external_judge(config: ExternalJudgeConfig) -> ExternalJudge:
    metadata = None
    if config.metadata is not None:
        text = local_file(config.metadata).read_text(encoding="utf-8")
        metadata = parse_metadata(text, where=config.metadata)
    return ExternalJudge(
        config.command,
        verdicts=config.verdicts,
        metadata=metadata,
        timeout_seconds=config.timeout_seconds,
    )
