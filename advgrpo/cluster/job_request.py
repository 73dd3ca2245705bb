"""Requests for jobs, and the placement of their processes on nodes."""

import hashlib
import json
import re
from dataclasses import dataclass

from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import ConfigError

_MAX_NAME_LENGTH = 47
"""Kubernetes allows 63; operators append a replica's name and index."""

_HASH_DIGITS = 10


@dataclass(frozen=True)
class JobRequest:
    """A task to run as a job."""

    task: str
    """The task's name, for instance `train`."""

    run_key: str
    """Identity of the task in its run: the same when it is retried."""

    command: tuple[str, ...]
    """Command of each pod of the job."""

    processes: int
    """Number of processes over all pods; on GPUs, one per GPU."""

    @property
    def name(self) -> str:
        """Name of the job, the same in every attempt, so that a retry finds the job."""
        # The run key is too long for a name and may contain characters that names may not.
        # As JSON, so that no two pairs of task and key give the same text.
        digest = hashlib.sha256(json.dumps([self.task, self.run_key]).encode()).hexdigest()
        task = re.sub(r"[^a-z0-9]+", "-", f"advgrpo-{self.task}".lower())
        return f"{task[: _MAX_NAME_LENGTH - _HASH_DIGITS - 1].strip('-')}-{digest[:_HASH_DIGITS]}"


@dataclass(frozen=True)
class Placement:
    """Number of a job's pods (one per node), and what each holds."""

    nodes: int
    processes_per_node: int
    gpus_per_node: int


def place_processes(processes: int, settings: ClusterSettings) -> Placement:
    """Spread processes evenly over nodes.

    Args:
        processes: Number of processes.
        settings: Settings of the cluster, which have a node's capacity.

    Raises:
        ConfigError: If the processes do not fill whole nodes; names numbers that do.
    """
    capacity = settings.processes_per_node or settings.gpus_per_node or 1
    if settings.gpus_per_node and capacity > settings.gpus_per_node:
        raise ConfigError(
            f"cluster.processesPerNode={capacity}: more than the {settings.gpus_per_node} GPUs "
            "of a node",
            repair=f"set cluster.processesPerNode to {settings.gpus_per_node} or less: a process "
            "needs a GPU",
        )
    nodes, rest = divmod(processes, capacity)
    if nodes and rest:
        lower, higher = nodes * capacity, (nodes + 1) * capacity
        raise ConfigError(
            f"processes={processes} do not fill nodes of {capacity}",
            repair=f"use up to {capacity}, or a multiple of it such as {lower} or {higher}",
        )
    # Less than one node: the job shares it with others.
    per_node = capacity if nodes else processes
    return Placement(max(nodes, 1), per_node, per_node if settings.gpus_per_node else 0)
