"""Read of a saved evaluation what registration needs; needs no torch."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from advgrpo.errors import EvaluationError
from advgrpo.records import EvaluatedPrompt, EvaluationReport
from advgrpo.strict_json import load_json_object

_FILE = "evaluation.json"


def read_report(folder: Path) -> EvaluationReport:
    """Read the figures of an evaluation that `write_evaluation` wrote.

    Raises:
        EvaluationError: If there are none, or they are damaged.
    """
    try:
        return TypeAdapter(EvaluationReport).validate_python(_content(folder)["report"])
    except (KeyError, ValidationError) as error:
        raise _damaged(folder, error) from error


def read_evaluated_prompts(folder: Path) -> tuple[EvaluatedPrompt, ...]:
    """Read which prompts an evaluation shows, with their alignment and the names of their images.

    Raises:
        EvaluationError: If there are none, or they are damaged.
    """
    try:
        examples: dict[str, EvaluatedPrompt] = {}
        for example in _content(folder)["examples"]:
            prompt = EvaluatedPrompt(
                prompt=example["prompt"],
                alignment=float(example["trained_alignment"]),
                images=tuple(example["images"]["trained"]),
            )
            # A prompt may be shown for several reasons.
            examples.setdefault(prompt.prompt, prompt)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(folder, error) from error
    return tuple(examples.values())


def _content(folder: Path) -> dict[str, Any]:
    try:
        return load_json_object((folder / _FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> EvaluationError:
    return EvaluationError(
        f"{folder / _FILE} is no evaluation: {error}", repair="evaluate the adapter again"
    )
