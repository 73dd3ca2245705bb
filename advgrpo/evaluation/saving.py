"""Keep an evaluation as JSON and PNG files, so that a later task can report it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from torch import Tensor

from advgrpo.data.images import decode_image, encode_png
from advgrpo.errors import DataError
from advgrpo.evaluation.batches import Side
from advgrpo.evaluation.evaluate import Evaluation
from advgrpo.evaluation.examples import Example, Why
from advgrpo.records import EvaluationReport
from advgrpo.storage import join, read_bytes, write_bytes

EVALUATION_FILE = "evaluation.json"
_SHOWN: tuple[Side, ...] = ("base", "trained", "reference")
"""What each example has images of; some have images of the champion, too."""


class _SavedExample(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: str
    why: Why
    base_alignment: float
    trained_alignment: float
    champion_alignment: float | None = None
    images: Mapping[Side, tuple[str, ...]]

    @model_validator(mode="after")
    def _each_side_is_shown(self) -> Self:
        sides = dict.fromkeys((*_SHOWN, *self.images))
        if bare := [side for side in sides if not self.images.get(side)]:
            raise ValueError(f"it names no images of {', '.join(bare)}")
        return self


class _SavedEvaluation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    report: EvaluationReport
    examples: tuple[_SavedExample, ...]


def write_evaluation(folder: str | Path, evaluation: Evaluation) -> None:
    """Write an evaluation.

    Args:
        folder: A local path or `s3://bucket/key`. `evaluation.json` is written last, so a folder
            that has it is whole. Images are rounded to 8 bits a channel.
        evaluation: What to write.

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
        names = {side: _names(position, side, len(images)) for side, images in sides.items()}
        for side, images in sides.items():
            for name, image in zip(names[side], images, strict=True):
                write_bytes(join(str(folder), name), encode_png(image))
        examples.append(
            _SavedExample(
                prompt=example.prompt,
                why=example.why,
                base_alignment=example.base_alignment,
                trained_alignment=example.trained_alignment,
                champion_alignment=example.champion_alignment,
                images=names,
            )
        )
    saved = _SavedEvaluation(report=evaluation.report, examples=tuple(examples))
    text = saved.model_dump_json(indent=1)
    write_bytes(join(str(folder), EVALUATION_FILE), text.encode())


def read_evaluation(folder: str | Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        StorageNotFoundError: If a file is missing.
        DataError: If a file is damaged.
    """
    path = join(str(folder), EVALUATION_FILE)
    try:
        saved = _SavedEvaluation.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise DataError(f"{path} is no evaluation: {error}", repair="evaluate again") from error
    return Evaluation(
        report=saved.report,
        examples=tuple(
            Example(
                prompt=example.prompt,
                why=example.why,
                base_alignment=example.base_alignment,
                trained_alignment=example.trained_alignment,
                base=_read_images(folder, example.images["base"]),
                trained=_read_images(folder, example.images["trained"]),
                reference=_read_images(folder, example.images["reference"]),
                champion_alignment=example.champion_alignment,
                champion=(
                    _read_images(folder, example.images["champion"])
                    if "champion" in example.images
                    else None
                ),
            )
            for example in saved.examples
        ),
    )


def _names(position: int, side: Side, count: int) -> tuple[str, ...]:
    return tuple(f"images/{position:03d}_{side}_{number}.png" for number in range(count))


def _read_images(
    folder: str | Path, names: tuple[str, ...]
) -> Float[Tensor, "sample 3 height width"]:
    images = []
    for name in names:
        path = join(str(folder), name)
        try:
            images.append(decode_image(read_bytes(path)))
        except ValueError as error:
            raise DataError(f"image {path} {error}", repair="evaluate again") from error
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"image {path} is of another size than {names[0]}", repair="evaluate again"
            )
    return torch.stack(images)
