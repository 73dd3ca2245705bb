"""Fake servers behind the real clients, and tiny models of the real classes, for tests.

A distribution of its own: `pip install advgrpo-testing`, or `pip install ./advgrpo/testing` from a
checkout. The `advgrpo` wheel does not contain it. No network and no downloaded weights are needed.
"""

from advgrpo.testing.cluster import FakeCluster
from advgrpo.testing.cluster_faults import Call, Fault
from advgrpo.testing.kfp import StubKfp
from advgrpo.testing.kfp_requests import KfpFault, KfpRequest
from advgrpo.testing.models import (
    SIDE_PIXELS,
    TINY_BACKBONES,
    BrightnessScorer,
    RecordingLogger,
    TinyModels,
    write_tiny_backbone,
    write_tiny_models,
)
from advgrpo.testing.train_jobs import FakeTrainJob
from advgrpo.testing.training_jobs import FakeJob, Step, run_until
from advgrpo.testing.training_operator import TrainingOperator

__all__ = [
    "SIDE_PIXELS",
    "TINY_BACKBONES",
    "BrightnessScorer",
    "Call",
    "FakeCluster",
    "FakeJob",
    "FakeTrainJob",
    "Fault",
    "KfpFault",
    "KfpRequest",
    "RecordingLogger",
    "Step",
    "StubKfp",
    "TinyModels",
    "TrainingOperator",
    "run_until",
    "write_tiny_backbone",
    "write_tiny_models",
]
