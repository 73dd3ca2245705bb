"""The interface of a job backend: a kind of distributed job that Kubernetes can run."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from advgrpo.cluster.api import Json
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings


class JobState(Enum):
    """State of a job."""

    QUEUED = "queued"
    """Suspended: it waits for its turn and has no pods."""

    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def is_end(self) -> bool:
        """Whether the state is final."""
        return self in {JobState.SUCCEEDED, JobState.FAILED}


@dataclass(frozen=True)
class JobStatus:
    """Status of a job, read from its object."""

    state: JobState
    started_at: str = ""
    """Time at which it last left its queue, as Kubernetes writes it; empty before."""

    ended_at: str = ""
    """Time at which it ended; empty before."""

    message: str = ""
    """The controller's message about the end; empty before."""

    deadline_exceeded: bool = False
    """Whether the controller ended the job because it ran for too long."""


class JobBackend(Protocol):
    """A kind of distributed job: how to write its object, and how to read it and its pods.

    Creating, adopting, monitoring and deleting jobs is the same for all kinds. Its pods must get
    torchrun's environment: `PET_NNODES`, `PET_NODE_RANK`, `PET_MASTER_ADDR` and `PET_MASTER_PORT`.
    """

    resource: Resource
    container: str
    """Name of the container that runs the task."""

    refusals: Mapping[str, str]
    """Repairs of pods that Pod Security refuses for what the controller adds to them, by a text of
    the refusal, for instance the name of a container."""

    init_container: Json | None
    """Init container that the controller adds to pods of jobs of several nodes; `refusals` has the
    repair by its name. None if it adds none."""

    limits_restarts: bool
    """Whether the controller ends a job after `cluster.maxRestarts`; else the launcher does."""

    requires: tuple[Resource, ...]
    """Further kinds that the cluster must know."""

    templates: tuple[Resource, ...]
    """Kinds of the object `cluster.trainingRuntime` that jobs refer to."""

    def manifest(self, request: JobRequest, settings: ClusterSettings) -> Json:
        """Return the job's object, equal for equal arguments: a retry adopts an equal job.

        Raises:
            ConfigError: If the settings do not fit the request.
        """
        ...

    def status(self, job: Json) -> JobStatus:
        """Read a job's status."""
        ...

    def pod_selector(self, job: Json) -> str:
        """Return the label selector of a job's pods."""
        ...

    def owns(self, job: Json, pod: Json) -> bool:
        """Return whether a pod is of this job and not of an earlier one of the same name."""
        ...

    def rank(self, pod: Json) -> int:
        """Return the node rank of a pod: a replacement has the rank of the pod that it replaces."""
        ...

    def event_selectors(self, job: Json) -> tuple[str, ...]:
        """Return the field selectors of the events that say why a job has no pods."""
        ...

    def read_exit(self, event: Json) -> tuple[str, int] | None:
        """Read a pod's name and exit status from an event that outlives the pod, if it has them."""
        ...
