"""Fakes behind the real protocols, and tiny models of the real classes; for our tests and yours.

Nothing here needs the network or weights.
"""

from advgrpo.testing.cluster import FakeCluster
from advgrpo.testing.cluster_faults import Call, Fault
from advgrpo.testing.kfp import KfpFault, KfpRequest, StubKfp
from advgrpo.testing.models import (
    SIDE_PIXELS,
    TINY_BACKBONES,
    BrightnessScorer,
    RecordingLogger,
    TinyModels,
    write_tiny_backbone,
    write_tiny_models,
)
from advgrpo.testing.training_operator import JobInHand, Step, runs_to

__all__ = [
    "SIDE_PIXELS",
    "TINY_BACKBONES",
    "BrightnessScorer",
    "Call",
    "FakeCluster",
    "Fault",
    "JobInHand",
    "KfpFault",
    "KfpRequest",
    "RecordingLogger",
    "Step",
    "StubKfp",
    "TinyModels",
    "runs_to",
    "write_tiny_backbone",
    "write_tiny_models",
]
