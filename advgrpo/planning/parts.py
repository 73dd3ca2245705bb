"""Parts of an estimate, in bytes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

FLOAT32 = 4
ADAM_STATES = 3
"""A float32 master weight and two moments."""

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Part:
    """A part of memory or storage."""

    name: str
    bytes: int | None
    """None if unknown."""

    how: str
    """Description of the calculation."""

    is_transient: bool = False
    """Whether it is freed before another such part is allocated."""


def total(parts: Iterable[Part]) -> int:
    """Return the sum of the known parts, and of the transient ones only the largest."""
    known = list(parts)
    # Transient parts never exist at the same time.
    permanent = sum(part.bytes or 0 for part in known if not part.is_transient)
    return permanent + max((part.bytes or 0 for part in known if part.is_transient), default=0)


def unknown(parts: Iterable[Part]) -> list[str]:
    """Return the names of the unknown parts."""
    return [part.name for part in parts if part.bytes is None]


def weights_part(name: str, count: int | str, dtype: str) -> Part:
    """Return the size of frozen weights; `count` is that of parameters, or why it is unknown."""
    if isinstance(count, str):
        return Part(name, None, count)
    return Part(name, count * BYTES[dtype], f"{count / 1e6:,.1f} million parameters in {dtype}")


@dataclass(frozen=True)
class Models:
    """Models of a run on the meta device; where one is unknown, the reason."""

    policy: Any
    """A `TransformerPolicy` with its adapter, and without gradient checkpointing."""

    text_encoder_parameters: int | str
    """Sum over the text encoders of the policy."""

    backbone: Any
    """Backbone of the discriminator."""

    prompt_encoder: Any
    """Text encoder of the discriminator; None if it is not conditioned on prompts."""

    scorer_parameters: dict[str, int | str]
    """Frozen scorers of evaluation and reward, which are loaded together with the policy."""
