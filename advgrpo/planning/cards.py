"""GPUs that a plan can estimate the time for, from their makers' data sheets."""

from dataclasses import dataclass

from advgrpo.errors import ConfigError


@dataclass(frozen=True)
class Card:
    """Data sheet of a GPU, without sparsity; rates in operations per second."""

    name: str
    memory_gib: int
    bfloat16: float
    float32: float
    bandwidth: float
    """Bytes per second."""


CARDS = {
    "h100": Card("H100 SXM", 80, 989e12, 67e12, 3.35e12),
    "h200": Card("H200 SXM", 141, 989e12, 67e12, 4.8e12),
    "a100": Card("A100 SXM 80 GB", 80, 312e12, 19.5e12, 2.04e12),
    "l40s": Card("L40S", 48, 362e12, 91.6e12, 0.864e12),
    "rtx4090": Card("GeForce RTX 4090", 24, 165e12, 82.6e12, 1.008e12),
}
"""Value of `--gpu` -> card."""


def card_named(name: str) -> Card:
    """Return a card.

    Raises:
        ConfigError: If it is not known; names those that are.
    """
    try:
        return CARDS[name.lower()]
    except KeyError:
        raise ConfigError(
            f"--gpu {name}: not a known GPU",
            repair=f"use one of {', '.join(CARDS)}, or --images-per-second with a measured rate",
        ) from None
