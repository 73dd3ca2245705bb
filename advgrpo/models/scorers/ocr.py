"""OCR accuracy: legibility of the text that a prompt quotes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from advgrpo.config.scorers.ocr import OcrConfig
from advgrpo.data.images import to_numpy
from advgrpo.data.prompts import quoted_texts
from advgrpo.errors import ConfigError
from advgrpo.models.scorers.base import BuildContext

Reader = Callable[[UInt8[np.ndarray, "height width 3"]], str]
"""A function that returns the text of an RGB image, one line per line."""


class Ocr:
    """A reader whose text is compared with that of the prompt; its metric is `ocr.accuracy`.

    The accuracy is 1 - errors / length: the share of the quoted text's characters that are right,
    in [0, 1], 1 if the text occurs anywhere in the image; higher is better. Errors are the
    insertions, deletions and replacements from the read text to the quoted one, at most its
    length; spaces and case are ignored. Several quoted texts are averaged. A prompt without quoted
    text (in `"..."` or typographic quotes) has no value. RapidOCR's models (PP-OCRv6,
    Apache-2.0-licensed) come with its package.

    Args:
        read: The reader, for instance of `rapid_reader`.

    Source:
        The OCR reward of Flow-GRPO, arXiv:2505.05470.
    """

    name = "ocr"
    metrics = ("accuracy",)

    def __init__(self, read: Reader) -> None:
        self._read = read

    def why_missing(self, prompt: str) -> str:
        """Return why images of a prompt have no value; empty if they have one."""
        return "" if quoted_texts(prompt) else "it quotes no text"

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Score the share of the quoted text that each image shows."""
        accuracies = []
        for image, prompt in zip(images, prompts, strict=True):
            read = self._read(to_numpy(image.float().cpu()))
            # The image is read once, also for several quoted texts.
            accuracy = [text_accuracy(read, quoted) for quoted in quoted_texts(prompt)]
            accuracies.append(sum(accuracy) / len(accuracy))
        return {"accuracy": torch.tensor(accuracies)}


def build(_config: OcrConfig, _context: BuildContext) -> Ocr:
    """Load RapidOCR."""
    return Ocr(rapid_reader())


def text_accuracy(read: str, wanted: str) -> float:
    """Return the share of a text that was read, in [0, 1]."""
    read, wanted = _plain(read), _plain(wanted)
    # An image may show other text as well, such as a sign in the background.
    if wanted in read:
        return 1.0
    # Additional text must not make the accuracy negative.
    return 1 - min(edit_distance(read, wanted), len(wanted)) / len(wanted)


def edit_distance(one: str, two: str) -> int:
    """Return the Levenshtein distance of two texts."""
    # Dynamic programming by rows: costs[j] is the distance of the read prefix to two[:j].
    costs = list(range(len(two) + 1))
    for row, character in enumerate(one, start=1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(two, start=1):
            replaced = diagonal + (character != other)
            diagonal = costs[column]
            costs[column] = min(replaced, diagonal + 1, costs[column - 1] + 1)
    return costs[-1]


def rapid_reader() -> Reader:
    """Load RapidOCR with the models of its package; it runs on the CPU.

    Raises:
        ConfigError: If the package, or a library that it needs, is not installed.
    """
    try:
        # An optional extra.
        from rapidocr import RapidOCR  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"a scorer of type ocr needs rapidocr, which cannot be loaded: {error}",
            repair="pip install 'advgrpo[ocr]', or remove the scorer",
        ) from error

    # Once per reader: it loads three models. It would configure a log of its own.
    engine = RapidOCR(params={"Global.log_level": "error"})

    def read(picture: UInt8[np.ndarray, "height width 3"]) -> str:
        # RapidOCR expects BGR, as OpenCV does; the texts of an image without any are None.
        return "\n".join(engine(np.ascontiguousarray(picture[..., ::-1])).txts or ())

    return read


def _plain(text: str) -> str:
    # The reader drops and inserts spaces, and line breaks depend on the layout.
    return "".join(text.split()).lower()
