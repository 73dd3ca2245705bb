"""Results of tasks as tables."""

from dataclasses import asdict, dataclass
from typing import Any

from advgrpo.evaluation.saved_evaluation import read_evaluation
from advgrpo.runtime.results import read_history as read_local_history
from advgrpo.storage.fetch import local_folder


@dataclass(frozen=True)
class EvaluationTables:
    """An evaluation as tables: lists of rows, which `pandas.DataFrame` accepts."""

    metrics: list[dict[str, Any]]
    """One row per metric: base, trained and reference values, with intervals."""

    examples: list[dict[str, Any]]
    """One row per example of the report: prompt, alignments, and the paths of its images."""


def open_evaluation(location: str) -> EvaluationTables:
    """Read an evaluation.

    Args:
        location: Folder or `s3://` location, as `evaluate` returned it.

    Raises:
        EvaluationError: If there is no evaluation, or it is damaged.
    """
    folder = local_folder(location)
    saved = read_evaluation(folder)
    return EvaluationTables(
        metrics=[asdict(comparison) for comparison in saved.report.comparisons],
        examples=[
            {
                **example.model_dump(exclude={"images"}),
                "images": {
                    side: [str(folder / name) for name in names]
                    for side, names in example.images.items()
                },
            }
            for example in saved.examples
        ],
    )


def read_history(location: str) -> list[dict[str, float]]:
    """Read the metrics of each update of a training, or of each step of a reward pre-training.

    A training's first row, update 0, has the held-out metrics of the base model.

    Args:
        location: Folder or `s3://` location of the task's result.
    """
    return read_local_history(local_folder(location))
