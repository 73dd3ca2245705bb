"""The evidence for a promotion, stored among a version's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from advgrpo.config.promotion import Gate
from advgrpo.config.run import RunConfig
from advgrpo.errors import TrackingError
from advgrpo.records import EvaluatedPrompt, EvaluationReport, GateResult, TrainingRecord
from advgrpo.strict_json import unique_keys

M = TypeVar("M", bound=BaseModel)

EVIDENCE_FILE = "evidence.json"
SETTINGS_FILE = "settings.json"
SAMPLE_FOLDER = "sample"
"""Folder of the images of `Evidence.sample`."""


class Evidence(BaseModel):
    """An evaluation, and the gates that were applied to it."""

    # JSON has no NaN; without this, pydantic would write null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    report: EvaluationReport
    gates: tuple[Gate, ...]
    results: tuple[GateResult, ...]
    """Results of the gates at registration, in their order."""

    lineage: Mapping[str, str]
    """Origin of the adapter by name: digests, versions of libraries."""

    training: TrainingRecord = TrainingRecord()
    """Record of the training, with the alarms of reward hacking detection."""

    sample: tuple[EvaluatedPrompt, ...] = ()
    """Prompts for replaying the evaluation."""


def read_evidence(folder: Path) -> Evidence:
    """Read the evidence among a version's files.

    Raises:
        TrackingError: If it is missing, or from another release.
    """
    return _read(Evidence, folder / EVIDENCE_FILE)


def read_settings(folder: Path) -> RunConfig:
    """Read the settings of a version's run.

    Raises:
        TrackingError: If they are missing, or from another release.
    """
    return _read(RunConfig, folder / SETTINGS_FILE)


def _read(model: type[M], path: Path) -> M:
    try:
        return model.model_validate_json(unique_keys(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise TrackingError(
            f"{path.name} of the version is missing or invalid: {error}",
            repair="register the adapter again with `advgrpo register`",
        ) from error
