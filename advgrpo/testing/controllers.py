"""The interface between a fake controller and its jobs."""

from typing import Protocol

from advgrpo.testing.cluster_objects import Json, ObjectStore, Target
from advgrpo.testing.pods import PodLogs


class Controller(Protocol):
    """The part of a controller that its jobs use."""

    store: ObjectStore
    logs: PodLogs
    restart_seconds: float | int

    def on_create(self, target: Target, created: Json) -> None:
        """Start to reconcile a new object if it is a job."""
        ...
