"""Diagnosis of a failed job: the pod at fault, the likely cause and the repair."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from advgrpo.cluster.monitoring.pods import Pod
from advgrpo.cluster.resources import Resource
from advgrpo.errors import (
    AdvGrpoError,
    ClusterError,
    JobDeadlineError,
    JobFailedError,
    JobRetryableError,
)

_LINES_QUOTED = 12
_RETRYABLE = 128
"""Smallest exit status of an error that a retry may fix."""

_SIGNALS = {137: "the node killed it (SIGKILL), as it does when short of memory"}
_ONE_RELEASE = "the image may be of another release of advgrpo: use one tag for both images"
_RESUME = "run it again: it resumes from its last checkpoint"
_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}


@dataclass(frozen=True)
class Cause:
    """Cause of a failure."""

    summary: str
    repair: str
    retryable: bool
    """Whether a retry may succeed."""


@dataclass(frozen=True)
class _LogPattern:
    """A pattern in a log that reveals a cause."""

    pattern: re.Pattern[str]
    cause: Cause


# The first match wins. Lack of memory comes first: the other ranks of the pod then time out in NCCL
# and log that as well.
_LOG_PATTERNS = (
    _LogPattern(
        re.compile(r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError"),
        Cause(
            "the GPU is out of memory",
            "lower training.rollout.microbatch_size, set policy.gradient_checkpointing=true "
            "or training.offload=optimizer, or use more processes",
            retryable=False,
        ),
    ),
    _LogPattern(
        re.compile(r"NCCL[^\n]*(timed? ?out|timeout)|collective operation timeout", re.IGNORECASE),
        Cause(
            "GPUs of different pods cannot reach each other (NCCL timeout)",
            "if it happens again, check cluster.environment.NCCL_SOCKET_IFNAME, cluster.rdma and "
            "the network policies; cluster.environment.NCCL_DEBUG=INFO logs the details",
            retryable=True,
        ),
    ),
    _LogPattern(
        re.compile(r"No space left on device"),
        Cause(
            "the node's disk is full",
            "raise cluster.node.ephemeralStorage, or cluster.node.sharedMemory if the path is "
            "/dev/shm",
            retryable=False,
        ),
    ),
    _LogPattern(
        # Touching a mapped page of a full /dev/shm raises this signal, not an error of the system
        # call.
        re.compile(r"Bus error|SIGBUS"),
        Cause(
            "shared memory is too small",
            "raise cluster.node.sharedMemory, and cluster.node.memory by as much",
            retryable=False,
        ),
    ),
)


def stuck_cause(pod: Pod) -> Cause | None:
    """Return why a pod cannot start, if waiting will not change it; else None."""
    detail = f"{pod.waiting_reason}: {pod.waiting_message}".strip(": ")
    if pod.waiting_reason in _IMAGE_REASONS:
        return Cause(
            f"the image cannot be pulled ({detail})",
            "set images.trainer and images.pullSecrets in the chart's values; check that the nodes "
            "reach the registry",
            retryable=False,
        )
    if pod.waiting_reason in {"CreateContainerConfigError", "CreateContainerError"}:
        return Cause(
            f"the container cannot be created ({detail})",
            "create the ConfigMap, Secret or key that the message names, or change the chart's "
            "value that refers to it",
            retryable=False,
        )
    if pod.waiting_reason == "RunContainerError":
        return Cause(
            f"the container cannot be started ({detail})",
            _ONE_RELEASE,
            retryable=False,
        )
    return None


def blocking_reason(pod: Pod) -> str:
    """Return what keeps a pod from running; empty if nothing does."""
    stuck = stuck_cause(pod)
    if stuck is not None:
        return stuck.summary
    return f"no node for {pod.name}: {pod.unschedulable}" if pod.unschedulable else ""


def pod_cause(pod: Pod, log: str = "") -> Cause:
    """Return the likely cause of a pod's failure.

    Args:
        pod: The pod.
        log: Its last lines.
    """
    # First, because an evicted pod also has an exit status and a log, which only show the
    # consequence.
    if pod.disruption:
        return Cause(
            f"the pod was preempted or evicted ({pod.disruption})", _RESUME, retryable=True
        )
    # Before the log: SIGKILL leaves no line in it.
    if pod.exit_reason == "OOMKilled":
        return Cause(
            "the pod exceeded its memory limit",
            "raise cluster.node.memory, or use fewer processes per node",
            retryable=False,
        )
    stuck = stuck_cause(pod)
    if stuck is not None:
        return stuck
    # Its status is 128, which would mean that a retry may fix it.
    if pod.has_start_error:
        return Cause(
            f"the container cannot be started ({pod.exit_reason}: {pod.exit_message})".replace(
                ": )", ")"
            ),
            _ONE_RELEASE,
            retryable=False,
        )
    text = f"{log}\n{pod.exit_message}"
    for pattern in _LOG_PATTERNS:
        if pattern.pattern.search(text):
            return pattern.cause
    return _cause_of_status(pod.exit_code)


def deadline_error(name: str, seconds: int) -> JobDeadlineError:
    """Return the error for a job that ran for longer than `cluster.deadlineSeconds`."""
    return JobDeadlineError(
        f"the job {name} ran longer than cluster.deadlineSeconds={seconds}",
        repair=f"raise cluster.deadlineSeconds in the chart's values, then {_RESUME}",
    )


def job_error(
    name: str,
    resource: Resource,
    message: str,
    pods: Sequence[Pod],
    *,
    log: str = "",
    events: Sequence[str] = (),
) -> ClusterError:
    """Return the error for a failed job.

    Args:
        name: Name of the job.
        resource: Its kind.
        message: Message of its controller.
        pods: Its pods as last seen, including those that are gone.
        log: Last lines of the pod that `first_failure` returns.
        events: Warnings about the job.
    """
    pod = first_failure(pods)
    if pod is None:
        warnings = "".join(f"\n    {event}" for event in events)
        return JobFailedError(
            f"the job {name} failed, and none of its pods shows why: {message}{warnings}",
            repair=f"see its conditions and events: kubectl describe {resource} {name}",
        )
    cause = pod_cause(pod, log)
    kind = JobRetryableError if cause.retryable else JobFailedError
    return kind(
        f"the job {name} failed: {_describe_end(pod)}. Likely cause: {cause.summary}."
        f"{_quote(log or pod.exit_message)}",
        repair=cause.repair,
    )


def first_failure(pods: Sequence[Pod]) -> Pod | None:
    """Return the pod whose failure made the others fail; None if none failed."""
    failed = [pod for pod in pods if pod.has_failed or pod.disruption or stuck_cause(pod)]
    # Pods that lose a peer fail as well, or are stopped with 143, perhaps within the same second,
    # which is the resolution of `ended_at`.
    return min(
        failed,
        # A pod without an end sorts last: "9" follows the first digit of every date.
        key=lambda pod: (not pod.disruption, pod.exit_code == 143, pod.ended_at or "9"),
        default=None,
    )


def _describe_end(pod: Pod) -> str:
    node = f" on the node {pod.node}" if pod.node else ""
    if pod.exit_code is None:
        return f"pod {pod.name}{node}"
    reason = f" ({pod.exit_reason})" if pod.exit_reason not in {"", "Error"} else ""
    return f"pod {pod.name}{node}, container {pod.container}, exit status {pod.exit_code}{reason}"


def _cause_of_status(code: int | None) -> Cause:
    if code is None:
        return Cause("unknown; the pod has no exit status", _RESUME, retryable=True)
    meaning = _meanings(AdvGrpoError).get(code)
    if code >= _RETRYABLE:
        summary = meaning or _SIGNALS.get(code, f"signal {code - _RETRYABLE} ended it")
        return Cause(summary, _RESUME, retryable=True)
    # Statuses of a command that cannot be executed, or is not found.
    if code in {126, 127}:
        return Cause("the image lacks the command", _ONE_RELEASE, retryable=False)
    summary = meaning or "an error that is not one of advgrpo's own"
    return Cause(summary, "follow the repair in the last lines of the log", retryable=False)


def _meanings(kind: type[AdvGrpoError]) -> dict[int, str]:
    """Return the meaning of each exit status: the first line of the error's docstring."""
    found: dict[int, str] = {}
    # Later entries replace earlier ones: the first class with a status defines its meaning, and a
    # base class comes before those derived from it.
    for child in reversed(kind.__subclasses__()):
        found |= _meanings(child)
    # Python itself exits with 1 for any uncaught exception.
    if "exit_code" in vars(kind) and kind.exit_code != 1:
        found[kind.exit_code] = str(kind.__doc__).partition("\n")[0].rstrip(".").lower()
    return found


def _quote(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()][-_LINES_QUOTED:]
    quoted = "".join(f"\n    {line}" for line in lines)
    return f" Its last lines:{quoted}" if lines else ""
