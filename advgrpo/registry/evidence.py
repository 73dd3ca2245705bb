"""What a version's promotion is judged by; it lies among the version's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from advgrpo.config import Gate, RunConfig
from advgrpo.errors import TrackingError
from advgrpo.records import EvaluatedPrompt, EvaluationReport, GateResult, TrainingRecord

M = TypeVar("M", bound=BaseModel)

EVIDENCE_FILE = "evidence.json"
SETTINGS_FILE = "settings.json"
SAMPLE_FOLDER = "sample"
"""Holds the images of `Evidence.sample`."""


class Evidence(BaseModel):
    """An evaluation and the gates that it was put to."""

    # A measure that was not finite stays visible as such.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    report: EvaluationReport
    gates: tuple[Gate, ...]
    results: tuple[GateResult, ...]
    """What the gates said at registration, in their order."""

    lineage: Mapping[str, str]
    """What the adapter was made from, by name: digests, versions of libraries."""

    training: TrainingRecord = TrainingRecord()
    """How it was trained, with what the watch for reward hacking found."""

    sample: tuple[EvaluatedPrompt, ...] = ()
    """Prompts whose evaluation can be repeated."""


def read_evidence(folder: Path) -> Evidence:
    """Read the evidence among a version's files.

    Raises:
        TrackingError: If there is none, or it is of another release.
    """
    return _read(Evidence, folder / EVIDENCE_FILE)


def read_settings(folder: Path) -> RunConfig:
    """Read the settings of the run that a version comes from.

    Raises:
        TrackingError: If there are none, or they are of another release.
    """
    return _read(RunConfig, folder / SETTINGS_FILE)


def _read(model: type[M], path: Path) -> M:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrackingError(
            f"{path.name} of the version cannot be read: {error}",
            repair="register the adapter again with `advgrpo register`",
        ) from error
