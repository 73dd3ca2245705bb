"""The format of `evaluation.json`, and its reader; needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from advgrpo.errors import EvaluationError
from advgrpo.records import EvaluatedPrompt, EvaluationReport
from advgrpo.strict_json import load_json_object

EVALUATION_FILE = "evaluation.json"

Side = Literal["reference", "base", "trained", "champion"]

Why = Literal["spread", "best", "worst", "rose", "fell"]
"""Reason for an example: one of several prompts spread evenly over the file, among the highest or
lowest alignments of the trained model, or among the largest increases or decreases of alignment."""

_REQUIRED: tuple[Side, ...] = ("base", "trained", "reference")
"""Sides that each example has images of; some also have images of the champion."""


class SavedExample(BaseModel):
    """One prompt with the names of its images."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    why: Why
    base_alignment: float
    trained_alignment: float
    champion_alignment: float | None = None
    images: Mapping[Side, tuple[str, ...]]

    @model_validator(mode="after")
    def _each_side_has_images(self) -> Self:
        sides = dict.fromkeys((*_REQUIRED, *self.images))
        if empty := [side for side in sides if not self.images.get(side)]:
            raise ValueError(f"it names no images of {', '.join(empty)}")
        return self


class SavedEvaluation(BaseModel):
    """Content of `evaluation.json`."""

    model_config = ConfigDict(extra="forbid")

    report: EvaluationReport
    examples: tuple[SavedExample, ...]

    def evaluated_prompts(self) -> tuple[EvaluatedPrompt, ...]:
        """Return each prompt of the examples once, with the images of the trained model."""
        prompts: dict[str, EvaluatedPrompt] = {}
        for example in self.examples:
            prompt = EvaluatedPrompt(
                prompt=example.prompt,
                alignment=example.trained_alignment,
                images=example.images["trained"],
            )
            # A prompt may be an example for several reasons.
            prompts.setdefault(prompt.prompt, prompt)
        return tuple(prompts.values())


def read_evaluation(folder: str | Path) -> SavedEvaluation:
    """Read the `evaluation.json` of a local folder.

    Raises:
        EvaluationError: If it does not exist or is damaged.
    """
    path = Path(folder) / EVALUATION_FILE
    try:
        return SavedEvaluation.model_validate(load_json_object(path.read_bytes()))
    # Python integers may be too large for a float, which pydantic does not catch.
    except (OSError, ValueError, OverflowError) as error:
        raise EvaluationError(
            f"{path} is not an evaluation: {error}", repair="evaluate the adapter again"
        ) from error
