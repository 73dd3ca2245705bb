"""What several tasks read: prompts, reference images and frozen measures."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from advgrpo.config import PickScoreConfig, PromptsConfig
from advgrpo.config.scorers import Scorer as ScorerConfig
from advgrpo.data.prompts import check_disjoint, read_prompts
from advgrpo.pocket.judge import PocketJudgeScorer
from advgrpo.records import PromptSet
from advgrpo.scorers.base import Scorer
from advgrpo.scorers.pickscore import PickScore
from advgrpo.storage import local_file, local_folder, scheme

POCKET_JUDGE = "package://advgrpo.pocket/weights/judge"


@dataclass(frozen=True)
class Prompts:
    """A run's prompts."""

    train: PromptSet
    test: PromptSet


def read_run_prompts(config: PromptsConfig) -> Prompts:
    """Read both prompt files.

    Raises:
        PromptFileError: If one cannot be used, or a prompt stands in both.
        StorageError: If one cannot be fetched.
    """
    prompts = Prompts(read_prompts(local_file(config.train)), read_prompts(local_file(config.test)))
    check_disjoint(prompts.train, prompts.test)
    return prompts


def build_scorers(configs: Iterable[ScorerConfig], device: torch.device) -> list[Scorer]:
    """Load frozen measures.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture.
    """
    return [
        PickScore(config.weights, device)
        if isinstance(config, PickScoreConfig)
        else PocketJudgeScorer.load(local_folder(POCKET_JUDGE))
        for config in configs
    ]


def device() -> torch.device:
    """Name the device of a task that is one process: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_local(location: str) -> bool:
    """Tell whether a location is a path of this machine."""
    return not scheme(location)
