"""Evaluations on disk: `evaluation.json` and PNG files, for tasks that come later."""

from pathlib import Path

from torch import Tensor

from advgrpo.data.images import encode_png
from advgrpo.evaluation.results import Evaluation
from advgrpo.evaluation.saved_evaluation import EVALUATION_FILE, SavedEvaluation, SavedExample, Side
from advgrpo.storage.files import write_bytes
from advgrpo.storage.locations import join


def write_evaluation(folder: str | Path, evaluation: Evaluation) -> None:
    """Write an evaluation.

    Args:
        folder: A local path or `s3://bucket/key`. `evaluation.json` is written last, so a folder
            that contains it is complete. Images are rounded to 8 bits per channel.
        evaluation: The evaluation.

    Raises:
        StorageError: If it cannot be written.
    """
    examples = []
    for position, example in enumerate(evaluation.examples):
        sides: dict[Side, Tensor] = {
            "base": example.base,
            "trained": example.trained,
            "reference": example.reference,
        }
        if example.champion is not None:
            sides["champion"] = example.champion
        # By position, because a prompt can be an example for several reasons.
        names = {side: _names(position, side, len(images)) for side, images in sides.items()}
        for side, images in sides.items():
            for name, image in zip(names[side], images, strict=True):
                write_bytes(join(str(folder), name), encode_png(image))
        examples.append(
            SavedExample(
                prompt=example.prompt,
                why=example.why,
                base_alignment=example.base_alignment,
                trained_alignment=example.trained_alignment,
                champion_alignment=example.champion_alignment,
                images=names,
            )
        )
    saved = SavedEvaluation(report=evaluation.report, examples=tuple(examples))
    text = saved.model_dump_json(indent=1)
    write_bytes(join(str(folder), EVALUATION_FILE), text.encode())


def _names(position: int, side: Side, count: int) -> tuple[str, ...]:
    return tuple(f"images/{position:03d}_{side}_{number}.png" for number in range(count))
