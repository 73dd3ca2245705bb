"""Captions of the pocket world: 2,160 sentences of five attributes each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from typing import Literal

SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
BACKGROUNDS = ("white", "gray", "black", "navy", "tan", "teal")
POSITIONS = ("center", "left", "right", "top", "bottom")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": SIZES,
    "colour": COLOURS,
    "shape": SHAPES,
    "background": BACKGROUNDS,
    "position": POSITIONS,
}
"""Attribute -> values, in the order of a caption."""

HELD_OUT_TRIPLES = 32
SPLIT_SEED = 20251205

Split = Literal["train", "test"]


@dataclass(frozen=True, order=True)
class Caption:
    """The attributes of one pocket picture."""

    size: str
    colour: str
    shape: str
    background: str
    position: str

    @property
    def text(self) -> str:
        """The caption as a prompt."""
        return (
            f"a {self.size} {self.colour} {self.shape} "
            f"on a {self.background} background {self.position}"
        )

    @property
    def triple(self) -> tuple[str, str, str]:
        """Shape, colour and background, by which captions are split."""
        return (self.shape, self.colour, self.background)

    @property
    def labels(self) -> tuple[int, int, int, int, int]:
        """The index of each attribute's value, in the order of `ATTRIBUTES`."""
        return (
            SIZES.index(self.size),
            COLOURS.index(self.colour),
            SHAPES.index(self.shape),
            BACKGROUNDS.index(self.background),
            POSITIONS.index(self.position),
        )


def parse_caption(text: str) -> Caption:
    """Parse a caption.

    Args:
        text: A sentence of the form "a small red circle on a white background left".

    Returns:
        The caption; its `text` equals the argument.

    Raises:
        ValueError: If the sentence has another form or an unknown value.
    """
    words = text.split()
    form = "a {size} {colour} {shape} on a {background} background {position}"
    if len(words) != 9 or (words[0], words[4], words[5], words[7]) != (
        "a",
        "on",
        "a",
        "background",
    ):
        raise ValueError(f"Not a pocket caption: {text!r}. Write it as {form!r}.")
    values = dict(zip(ATTRIBUTES, (words[1], words[2], words[3], words[6], words[8]), strict=True))
    for attribute, value in values.items():
        if value not in ATTRIBUTES[attribute]:
            known = ", ".join(ATTRIBUTES[attribute])
            raise ValueError(f"Unknown {attribute} {value!r} in {text!r}. Use one of: {known}.")
    return Caption(**values)


@cache
def all_captions() -> tuple[Caption, ...]:
    """List the 2,160 captions in a fixed order."""
    return tuple(Caption(*values) for values in product(*ATTRIBUTES.values()))


@cache
def held_out_triples() -> frozenset[tuple[str, str, str]]:
    """Return the (shape, colour, background) triples that are only used for testing."""
    triples = list(product(SHAPES, COLOURS, BACKGROUNDS))
    # Triples rather than captions, so that a test caption has a combination that training never
    # showed.
    return frozenset(random.Random(SPLIT_SEED).sample(triples, HELD_OUT_TRIPLES))


@cache
def captions_of(split: Split) -> tuple[Caption, ...]:
    """List the captions of one split: 1,840 to train on, 320 of unseen triples to test on."""
    held_out = held_out_triples()
    # In the order of all_captions, as in the checked-in prompt files.
    return tuple(c for c in all_captions() if (c.triple in held_out) == (split == "test"))


def read_prompts(split: Split) -> list[str]:
    """Read a split's checked-in prompt file, one caption a line."""
    file = resources.files(__package__) / "prompts" / f"{split}.txt"
    return file.read_text(encoding="utf-8").splitlines()
