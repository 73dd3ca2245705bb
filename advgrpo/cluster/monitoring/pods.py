"""State of a job's pods, reduced to what explains a failure."""

from dataclasses import dataclass, replace

from advgrpo.cluster.api import Json
from advgrpo.telemetry.logging import lines_to_text

_DISRUPTED = {"Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated"}
"""Status reasons of pods that were evicted, preempted or lost with their node."""

_START_ERRORS = {"StartError", "ContainerCannotRun"}
"""Reasons of the kubelet for a container whose process could not be created, with status 128."""

_STARTING = {"ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class Pod:
    """A pod at one moment."""

    name: str
    uid: str
    rank: int
    """Rank of its node in the job; a replacement has the same."""

    created_at: str
    node: str
    phase: str
    disruption: str
    """Why it was preempted or evicted; empty if it was not."""

    unschedulable: str
    """Why no node fits; empty if it is scheduled."""

    waiting_reason: str
    """Why a container does not start; empty if it has started or is starting."""

    waiting_message: str
    container: str
    """The container of `exit_code` or `waiting_reason`."""

    exit_code: int | None
    """Exit status of the container; None while it has none."""

    exit_reason: str
    """The kubelet's reason, for instance `OOMKilled`."""

    exit_message: str
    """The last lines of the container's log."""

    ended_at: str

    @property
    def has_failed(self) -> bool:
        """Whether it ended with an error."""
        return self.phase == "Failed" or (self.exit_code or 0) != 0

    @property
    def is_running(self) -> bool:
        """Whether its container runs."""
        return self.phase == "Running" and self.exit_code is None

    @property
    def has_start_error(self) -> bool:
        """Whether the container runtime could not start the container."""
        return self.exit_reason in _START_ERRORS

    def exited(self, code: int, container: str) -> "Pod":
        """Return the pod after a container's exit with a status."""
        return replace(self, exit_code=code, container=container, phase="Failed")


def read_pod(pod: Json, rank: int) -> Pod:
    """Return the state of a pod.

    Args:
        pod: The object.
        rank: Rank of its node in the job.
    """
    meta, status = pod["metadata"], pod.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    # An init container can fail, or fail to pull its image, just like the main one.
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    waiting = _first(containers, "waiting")
    terminated = _first(containers, "terminated")
    reason = str(waiting.get("reason") or "")
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        rank=rank,
        created_at=str(meta.get("creationTimestamp") or ""),
        node=(pod.get("spec") or {}).get("nodeName") or "",
        phase=status.get("phase") or "Pending",
        disruption=_disruption(status, conditions),
        unschedulable=(
            str(scheduled.get("message") or "no node fits")
            if scheduled.get("reason") == "Unschedulable"
            else ""
        ),
        waiting_reason="" if reason in _STARTING else reason,
        waiting_message=str(waiting.get("message") or ""),
        container=str((terminated or waiting).get("container") or ""),
        # Not `lastState`: a job's containers are not restarted in place, the operator replaces the
        # pod.
        exit_code=terminated.get("exitCode"),
        exit_reason=str(terminated.get("reason") or ""),
        exit_message=lines_to_text(str(terminated.get("message") or "").strip()),
        ended_at=str(terminated.get("finishedAt") or ""),
    )


def _first(statuses: list[Json], kind: str) -> Json:
    """Return the first container that waits or failed; else one that succeeded."""
    matching = [
        {**state, "container": one["name"]}
        for one in statuses
        if (state := (one.get("state") or {}).get(kind)) is not None
        # An init container that succeeded is not the end of its pod.
        and (kind == "waiting" or state.get("exitCode") or one is statuses[-1])
    ]
    return matching[0] if matching else {}


def _disruption(status: Json, conditions: dict[str, Json]) -> str:
    # Kubernetes before 1.26 has only the status reason.
    disrupted = conditions.get("DisruptionTarget", {})
    if disrupted.get("status") == "True":
        reason, message = disrupted.get("reason", ""), disrupted.get("message", "")
    elif status.get("reason") in _DISRUPTED:
        reason, message = status["reason"], status.get("message", "")
    else:
        return ""
    return f"{reason}: {message}".strip(": ") or "disrupted"
