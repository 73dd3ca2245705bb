"""Fakes behind the real protocols, and tiny models of the real classes; for our tests and yours.

Nothing here needs the network or weights.
"""

from advgrpo.testing.models import (
    SIDE_PIXELS,
    BrightnessScorer,
    RecordingLogger,
    TinyModels,
    write_tiny_models,
)

__all__ = [
    "SIDE_PIXELS",
    "BrightnessScorer",
    "RecordingLogger",
    "TinyModels",
    "write_tiny_models",
]
