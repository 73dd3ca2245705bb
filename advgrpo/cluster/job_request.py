"""What is to be run as a job, and on how many machines."""

import hashlib
import json
import re
from dataclasses import dataclass

from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import ConfigError

_LONGEST_NAME = 47
"""Kubernetes allows 63; the operator appends `-worker-` and a number."""

_HASH_DIGITS = 10


@dataclass(frozen=True)
class JobRequest:
    """A task to run as a job."""

    task: str
    """Its name, for instance `train`."""

    run_key: str
    """What tells this work from other work; the same when it is tried again."""

    command: tuple[str, ...]
    """What each of the job's pods runs."""

    processes: int
    """How many processes work on it, over all pods; on GPUs, one each."""

    @property
    def name(self) -> str:
        """Name of its job: the same whenever it is tried."""
        digest = hashlib.sha256(json.dumps([self.task, self.run_key]).encode()).hexdigest()
        task = re.sub(r"[^a-z0-9]+", "-", f"advgrpo-{self.task}".lower())
        return f"{task[: _LONGEST_NAME - _HASH_DIGITS - 1].strip('-')}-{digest[:_HASH_DIGITS]}"


@dataclass(frozen=True)
class Placement:
    """How many pods a job has, and what each holds."""

    nodes: int
    processes_per_node: int
    gpus_per_node: int


def shape_of(processes: int, settings: ClusterSettings) -> Placement:
    """Spread processes over nodes, all of them alike.

    Args:
        processes: How many there are.
        settings: Say what a node holds.

    Raises:
        ConfigError: If they do not fill whole nodes; names numbers that do.
    """
    holds = settings.processes_per_node or settings.gpus_per_node or 1
    if settings.gpus_per_node and holds > settings.gpus_per_node:
        raise ConfigError(
            f"cluster.processes_per_node={holds} is more than the {settings.gpus_per_node} GPUs "
            "of a node",
            repair="use one process per GPU",
        )
    nodes, rest = divmod(processes, holds)
    if nodes and rest:
        lower, higher = nodes * holds, (nodes + 1) * holds
        raise ConfigError(
            f"processes={processes} do not fill nodes of {holds}",
            repair=f"use up to {holds}, or a multiple of it such as {lower} or {higher}",
        )
    here = holds if nodes else processes
    return Placement(max(nodes, 1), here, here if settings.gpus_per_node else 0)
