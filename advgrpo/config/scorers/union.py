"""The union of all scorer settings."""

from typing import Annotated

from pydantic import Field

from advgrpo.config.scorers.aesthetic import AestheticConfig
from advgrpo.config.scorers.clip_score import ClipScoreConfig
from advgrpo.config.scorers.external_judge import ExternalJudgeConfig
from advgrpo.config.scorers.hps import HpsConfig
from advgrpo.config.scorers.http import HttpScorerConfig
from advgrpo.config.scorers.ocr import OcrConfig
from advgrpo.config.scorers.pickscore import PickScoreConfig
from advgrpo.config.scorers.pocket_judge import PocketJudgeConfig
from advgrpo.config.scorers.python import PythonScorerConfig
from advgrpo.config.scorers.reference_similarity import ReferenceSimilarityConfig

# A new member also needs its module in `advgrpo.models.scorers`, which is found by its type.
ScorerConfig = Annotated[
    PickScoreConfig
    | HpsConfig
    | ClipScoreConfig
    | AestheticConfig
    | OcrConfig
    | ReferenceSimilarityConfig
    | ExternalJudgeConfig
    | PocketJudgeConfig
    | PythonScorerConfig
    | HttpScorerConfig,
    Field(discriminator="type"),
]
"""Settings of any scorer. The order is that of docs/scorers.md."""
