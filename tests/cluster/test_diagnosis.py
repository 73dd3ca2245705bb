from dataclasses import replace
from typing import Any

import pytest

from advgrpo.cluster.monitoring.diagnosis import (
    deadline_error,
    first_failure,
    job_error,
    pod_cause,
    stuck_cause,
)
from advgrpo.cluster.monitoring.pods import Pod, read_pod
from advgrpo.cluster.resources import PODS
from advgrpo.errors import JobFailedError, JobRetryableError


def body(status: dict[str, Any], name: str = "job-master-0") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": f"uid of {name}"},
        "spec": {"nodeName": "gpu-3"},
        "status": status,
    }


def ended(code: int, reason: str = "Error", message: str = "", **more: str) -> Pod:
    end = {"exitCode": code, "reason": reason, "message": message, **more}
    container = {"name": "pytorch", "state": {"terminated": end}}
    return read_pod(body({"phase": "Failed", "containerStatuses": [container]}), 0)


def waiting(reason: str, message: str = "", kind: str = "containerStatuses") -> Pod:
    container = {"name": "pytorch", "state": {"waiting": {"reason": reason, "message": message}}}
    return read_pod(body({"phase": "Pending", kind: [container]}), 0)


@pytest.mark.parametrize(
    ("pod", "log", "cause", "retryable"),
    [
        (ended(137, "OOMKilled"), "", "exceeded its memory limit", False),
        (ended(137), "", "the node killed it", True),
        (ended(139), "", "signal 11 ended it", True),
        (ended(128, "StartError", "no such file"), "", "cannot be started", False),
        (ended(143), "", "stopped on request; state is saved", True),
        (ended(150), "", "the storage server does not respond", True),
        (ended(151), "", "a training process died", True),
        (ended(2), "", "a setting is unknown", False),
        (ended(4), "", "model weights are missing", False),
        (ended(1), "", "an error that is not one of advgrpo's own", False),
        (ended(127), "", "the image lacks the command", False),
        (ended(1), "RuntimeError: CUDA out of memory. Tried", "the GPU is out of memory", False),
        (ended(1, message="torch.OutOfMemoryError: x"), "", "the GPU is out of memory", False),
        (ended(1), "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL",
         "NCCL timeout", True),
        (ended(151), "NCCL error: socket timeout", "NCCL timeout", True),
        (ended(1), "OSError: [Errno 28] No space left on device", "disk is full", False),
        (ended(135), "DataLoader worker is killed by signal: Bus error.", "shared memory", False),
    ],
)  # fmt: skip
def test_the_likely_cause_follows_from_status_reason_and_log(
    pod: Pod, log: str, cause: str, retryable: bool
) -> None:
    found = pod_cause(pod, log)
    assert cause in found.summary
    assert found.retryable is retryable
    error = job_error("job", PODS, "message of the operator", [pod], log=log)
    assert type(error) is (JobRetryableError if retryable else JobFailedError)
    assert "pod job-master-0 on the node gpu-3, container pytorch, exit status" in error.message
    assert error.repair


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Failed", "reason": "Evicted", "message": "low on memory"},
        {"phase": "Failed", "reason": "NodeLost"},
        {"phase": "Failed", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
             "message": "a pod of higher priority"}]},
    ],
)  # fmt: skip
def test_an_evicted_pod_is_retryable(status: dict[str, Any]) -> None:
    error = job_error("job", PODS, "", [read_pod(body(status), 0)])
    assert isinstance(error, JobRetryableError)
    assert "preempted or evicted" in error.message


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName"])
def test_a_failed_pull_names_the_image(reason: str) -> None:
    cause = stuck_cause(waiting(reason, "registry.example/trainer:1"))
    assert cause is not None
    assert "registry.example/trainer:1" in cause.summary
    assert "images.trainer" in cause.repair


def test_a_stuck_init_container_is_found() -> None:
    pod = waiting("ImagePullBackOff", "alpine:3.10", "initContainerStatuses")
    assert "alpine:3.10" in str(stuck_cause(pod))


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_starting_container_is_not_stuck(reason: str) -> None:
    assert stuck_cause(waiting(reason)) is None


def test_a_completed_init_container_is_not_the_pods_end() -> None:
    pod = read_pod(body({
        "phase": "Running",
        "initContainerStatuses": [{"name": "init", "state": {"terminated": {"exitCode": 0}}}],
        "containerStatuses": [{"name": "pytorch", "state": {"running": {}}}],
    }), 0)  # fmt: skip
    assert pod.exit_code is None
    assert pod.is_running


def test_the_first_pod_to_fail_is_the_cause_unless_one_was_evicted() -> None:
    first = ended(1, finishedAt="2026-01-01T00:00:01Z")
    peers = [replace(ended(151, finishedAt="2026-01-01T00:00:02Z"), name=f"w-{n}") for n in "123"]
    assert first_failure([*peers, first]) is first
    stopped = replace(ended(143, finishedAt="2026-01-01T00:00:00Z"), name="stopped")
    assert first_failure([stopped, *peers, first]) is first
    evicted = read_pod(body({"phase": "Failed", "reason": "Evicted"}, "evicted"), 0)
    assert first_failure([*peers, first, evicted]) is evicted
    running = {"name": "pytorch", "state": {"running": {}}}
    healthy = read_pod(body({"phase": "Running", "containerStatuses": [running]}), 0)
    assert first_failure([healthy]) is None


def test_a_failure_that_no_pod_explains_quotes_the_operator() -> None:
    error = job_error("job", PODS, "it has failed", [], events=["FailedCreatePod: exceeded quota"])
    assert isinstance(error, JobFailedError)
    assert "it has failed" in error.message
    assert "exceeded quota" in error.message
    assert "kubectl describe pods job" in error.repair


def test_a_missed_deadline_names_the_setting() -> None:
    assert "cluster.deadlineSeconds=60" in deadline_error("job", 60).message


def test_the_last_lines_of_a_long_log_are_quoted() -> None:
    error = job_error("job", PODS, "", [ended(1)], log="\n".join(f"line {n}" for n in range(100)))
    assert "line 99" in error.message
    assert "line 88" in error.message
    assert "line 87" not in error.message
