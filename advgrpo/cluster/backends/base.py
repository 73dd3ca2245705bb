"""What the launcher must know of a kind of distributed job."""

from enum import Enum
from typing import Protocol

from advgrpo.cluster.api import Json
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings


class JobState(Enum):
    """Where a job stands."""

    QUEUED = "queued"
    """It waits for its turn and has no pods."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def is_end(self) -> bool:
        """Whether nothing more will happen."""
        return self in {JobState.SUCCEEDED, JobState.FAILED}


class JobBackend(Protocol):
    """A kind of distributed job: how it is written, and how its state is read.

    Creating, following and deleting are the same for all kinds.
    """

    resource: Resource

    def manifest(self, work: JobRequest, settings: ClusterSettings) -> Json:
        """Write the job, without what belongs to one attempt to run it.

        Raises:
            ConfigError: If the settings do not fit the work.
        """
        ...

    def state(self, job: Json) -> JobState: ...

    def started_at(self, job: Json) -> str:
        """Give the time at which it left its queue, as Kubernetes writes it; empty before."""
        ...

    def end_message(self, job: Json) -> str:
        """Give what the job's controller says of its end; empty before."""
        ...

    def pod_selector(self, name: str) -> str:
        """Give the label selector of a job's pods."""
        ...

    def first_pod(self, name: str) -> str:
        """Name the pod with rank 0."""
        ...
