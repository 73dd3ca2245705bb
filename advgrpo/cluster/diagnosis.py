"""Say why a job failed, in words that name the pod, the likely cause and what to do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from advgrpo.cluster.pods import Pod
from advgrpo.errors import (
    AdvGrpoError,
    ClusterError,
    JobDeadlineError,
    JobFailedError,
    JobRetryableError,
)

_LINES_QUOTED = 12
_AGAIN = 128
"""Exit statuses from here on mean: try again."""

_SIGNALS = {137: "its node killed it, as one that is short of memory does"}
_ONE_RELEASE = "the image may be of another release of advgrpo: use one tag for both images"
_FROM_CHECKPOINT = "run it again; it goes on from its last checkpoint"
_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}


@dataclass(frozen=True)
class Cause:
    """Why something failed."""

    what: str
    repair: str
    may_pass: bool
    """Whether trying again may help."""


@dataclass(frozen=True)
class _Sign:
    """Words in a log that tell a cause."""

    pattern: re.Pattern[str]
    cause: Cause


_SIGNS = (
    _Sign(
        re.compile(r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError"),
        Cause(
            "the GPU is out of memory",
            "make training.rollout.microbatch_size smaller, set policy.gradient_checkpointing=true "
            "or training.offload=optimizer, or use more processes",
            may_pass=False,
        ),
    ),
    _Sign(
        re.compile(r"NCCL[^\n]*(timed? ?out|timeout)|collective operation timeout", re.IGNORECASE),
        Cause(
            "GPUs of several pods lost touch with each other (NCCL timeout)",
            "if it comes again, check cluster.environment.NCCL_SOCKET_IFNAME, cluster.rdma and the "
            "network policies; NCCL_DEBUG=INFO tells more",
            may_pass=True,
        ),
    ),
    _Sign(
        re.compile(r"No space left on device"),
        Cause(
            "the node's disk is full",
            "raise cluster.node.ephemeral_storage, or cluster.node.shared_memory if the path is "
            "/dev/shm",
            may_pass=False,
        ),
    ),
    _Sign(
        re.compile(r"Bus error|SIGBUS"),
        Cause(
            "shared memory is too small",
            "raise cluster.node.shared_memory, and cluster.node.memory by as much",
            may_pass=False,
        ),
    ),
)


def stuck_cause(pod: Pod) -> Cause | None:
    """Say why a pod cannot start, if that will not change by waiting; else None."""
    said = f"{pod.waiting_reason}: {pod.waiting_message}".strip(": ")
    if pod.waiting_reason in _IMAGE_REASONS:
        return Cause(
            f"the image cannot be pulled ({said})",
            "check images.trainer, images.pullSecrets and that nodes reach the registry",
            may_pass=False,
        )
    if pod.waiting_reason in {"CreateContainerConfigError", "CreateContainerError"}:
        return Cause(
            f"the container cannot be made ({said})",
            "create the ConfigMap, Secret or key that it names, or correct cluster's settings",
            may_pass=False,
        )
    if pod.waiting_reason == "RunContainerError":
        return Cause(
            f"the container cannot be started ({said})",
            _ONE_RELEASE,
            may_pass=False,
        )
    return None


def pod_cause(pod: Pod, log: str = "") -> Cause:
    """Say the likely cause of a pod's bad end.

    Args:
        pod: The pod.
        log: Its last lines.
    """
    if pod.disruption:
        return Cause(
            f"the pod was preempted or evicted ({pod.disruption})", _FROM_CHECKPOINT, may_pass=True
        )
    if pod.exit_reason == "OOMKilled":
        return Cause(
            "the pod used more memory than it may",
            "raise cluster.node.memory, or use fewer processes per node",
            may_pass=False,
        )
    stuck = stuck_cause(pod)
    if stuck is not None:
        return stuck
    text = f"{log}\n{pod.exit_message}"
    for sign in _SIGNS:
        if sign.pattern.search(text):
            return sign.cause
    return _cause_of_status(pod.exit_code)


def job_error(
    name: str,
    message: str,
    pods: Sequence[Pod],
    *,
    log: str = "",
    events: Sequence[str] = (),
) -> ClusterError:
    """Make the error for a job that failed.

    Args:
        name: The job's.
        message: What its controller says.
        pods: Its pods as last seen, those that are gone among them.
        log: Last lines of the pod that `blamed` gives.
        events: Warnings about the job.
    """
    pod = blamed(pods)
    if "longer than specified deadline" in message:
        return JobDeadlineError(
            f"the job {name} ran longer than cluster.deadline_seconds allows",
            repair=f"raise it; {_FROM_CHECKPOINT}",
        )
    if pod is None:
        told = "".join(f"\n    {event}" for event in events)
        return JobFailedError(
            f"the job {name} failed, and none of its pods says why: {message}{told}",
            repair=f"look at: kubectl describe pytorchjob {name}",
        )
    cause = pod_cause(pod, log)
    kind = JobRetryableError if cause.may_pass else JobFailedError
    return kind(
        f"the job {name} failed: {_end_of(pod)}. Likely cause: {cause.what}."
        f"{_quoted(log or pod.exit_message)}",
        repair=cause.repair,
    )


def blamed(pods: Sequence[Pod]) -> Pod | None:
    """Find the pod whose end is the cause of the others': the first to fail; None if none did."""
    failed = [pod for pod in pods if pod.has_failed or pod.disruption or stuck_cause(pod)]
    # A pod that lost its peers fails as well, perhaps in the same second, and is asked to stop.
    return min(
        failed,
        key=lambda pod: (not pod.disruption, pod.exit_code == 143, pod.ended_at or "9"),
        default=None,
    )


def _end_of(pod: Pod) -> str:
    where = f" on the node {pod.node}" if pod.node else ""
    if pod.exit_code is None:
        return f"pod {pod.name}{where}"
    reason = f" ({pod.exit_reason})" if pod.exit_reason not in {"", "Error"} else ""
    return f"pod {pod.name}{where}, container {pod.container}, exit status {pod.exit_code}{reason}"


def _cause_of_status(code: int | None) -> Cause:
    if code is None:
        return Cause("unknown; the pod says nothing", _FROM_CHECKPOINT, may_pass=True)
    meaning = _meanings(AdvGrpoError).get(code)
    if code >= _AGAIN:
        what = meaning or _SIGNALS.get(code, f"signal {code - _AGAIN} ended it")
        return Cause(what, _FROM_CHECKPOINT, may_pass=True)
    if code in {126, 127}:
        return Cause("the image lacks the command", _ONE_RELEASE, may_pass=False)
    what = meaning or "a fault that advgrpo has no name for"
    return Cause(what, "correct what the last lines name", may_pass=False)


def _meanings(kind: type[AdvGrpoError]) -> dict[int, str]:
    """Give what the exit statuses of our own errors mean; 1 is anybody's."""
    found: dict[int, str] = {}
    for child in reversed(kind.__subclasses__()):
        found |= _meanings(child)
    if "exit_code" in vars(kind) and kind.exit_code != 1:
        found[kind.exit_code] = str(kind.__doc__).partition("\n")[0].rstrip(".").lower()
    return found


def _quoted(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()][-_LINES_QUOTED:]
    quoted = "".join(f"\n    {line}" for line in lines)
    return f" Its last lines:{quoted}" if lines else ""
