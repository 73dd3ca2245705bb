"""A job's pods as Kubernetes describes them, reduced to what tells why something goes wrong."""

from dataclasses import dataclass

from advgrpo.cluster.api import Json
from advgrpo.telemetry.logging import lines_to_text

_DISRUPTED = {"Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated"}
"""Reasons in the status of a pod that its node or a pod of higher priority threw out."""

_NOT_STUCK = {"ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class Pod:
    """A pod at one moment."""

    name: str
    uid: str
    node: str
    phase: str
    disruption: str
    """Why it was thrown out; empty if it was not."""

    unschedulable: str
    """Why there is no node for it; empty if there is one."""

    waiting_reason: str
    """Why a container does not start; empty if it did, or is about to."""

    waiting_message: str
    container: str
    """The container that `exit_code` or `waiting_reason` is about."""

    exit_code: int | None
    """Exit status of the container; None while it has none."""

    exit_reason: str
    """The kubelet's word for it, for instance `OOMKilled`."""

    exit_message: str
    """The container's last lines."""

    ended_at: str

    @property
    def has_failed(self) -> bool:
        """Whether it ended badly."""
        return self.phase == "Failed" or (self.exit_code or 0) != 0

    @property
    def is_running(self) -> bool:
        """Whether its container runs."""
        return self.phase == "Running" and self.exit_code is None


def read_pod(pod: Json) -> Pod:
    """Read what the API server says of a pod."""
    meta, status = pod["metadata"], pod.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    found = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    waits = _first(found, "waiting")
    ended = _first(found, "terminated")
    reason = str(waits.get("reason") or "")
    return Pod(
        name=meta["name"],
        uid=meta["uid"],
        node=(pod.get("spec") or {}).get("nodeName") or "",
        phase=status.get("phase") or "Pending",
        disruption=_disruption(status, conditions),
        unschedulable=(
            str(scheduled.get("message") or "no node fits")
            if scheduled.get("reason") == "Unschedulable"
            else ""
        ),
        waiting_reason="" if reason in _NOT_STUCK else reason,
        waiting_message=str(waits.get("message") or ""),
        container=str((ended or waits).get("container") or ""),
        exit_code=ended.get("exitCode"),
        exit_reason=str(ended.get("reason") or ""),
        exit_message=lines_to_text(str(ended.get("message") or "").strip()),
        ended_at=str(ended.get("finishedAt") or ""),
    )


def _first(statuses: list[Json], kind: str) -> Json:
    """Find the first container that waits, or that ended badly; else one that ended well."""
    found = [
        {**state, "container": one["name"]}
        for one in statuses
        if (state := (one.get("state") or {}).get(kind)) is not None
        # An init container that is done is not the pod's end.
        and (kind == "waiting" or state.get("exitCode") or one is statuses[-1])
    ]
    return found[0] if found else {}


def _disruption(status: Json, conditions: dict[str, Json]) -> str:
    disrupted = conditions.get("DisruptionTarget", {})
    if disrupted.get("status") == "True":
        reason, message = disrupted.get("reason", ""), disrupted.get("message", "")
    elif status.get("reason") in _DISRUPTED:
        reason, message = status["reason"], status.get("message", "")
    else:
        return ""
    return f"{reason}: {message}".strip(": ") or "disrupted"
