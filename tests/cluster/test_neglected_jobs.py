"""Jobs whose controller does not act, or may not: a failure must not be 30 minutes of silence."""

import logging
import os
import re
import subprocess
import textwrap
from functools import partial
from pathlib import Path

import pytest
import yaml

from advgrpo.cluster.backends.pytorchjob import INIT_CONTAINER_TEMPLATE
from advgrpo.cluster.refusals import refusal_repair
from advgrpo.errors import JobDeadlineError, JobFailedError, JobRetryableError
from advgrpo.testing import FakeCluster, FakeJob, Fault, Step
from tests.cluster.launching import REQUEST, SETTINGS, Launching

START = (Step(1, FakeJob.add_pods), Step(2, FakeJob.run))
RESTRICTED = (
    f'pods "{REQUEST.name}-worker-0" is forbidden: violates PodSecurity "restricted:latest": '
    'allowPrivilegeEscalation != false (container "{container}" must set '
    "securityContext.allowPrivilegeEscalation=false)"
)


def seconds(launching: Launching) -> float:
    return launching.clock() - launching.cluster.operator.jobs[0].created


def refuse(message: str, *names: str) -> Step:
    def act(job: FakeJob) -> None:
        job.refused = dict.fromkeys(names, message)
        job.add_pods()

    return Step(1, act)


@pytest.mark.parametrize("condition", ["Restarting", "Running"])
@pytest.mark.parametrize("pod", ["master-0", "worker-0"])
def test_a_pod_that_ended_and_is_not_replaced_fails_the_job(
    launching: Launching, pod: str, condition: str
) -> None:
    launching.cluster.operator.plans.append(
        (
            *START,
            Step(9, lambda job: job.log("ValueError: no such layer", pod=pod)),
            Step(19, partial(FakeJob.neglect, condition=condition)),
            Step(20, lambda job: job.exit_pod(1, pod=pod)),
        )
    )
    with pytest.raises(JobFailedError, match="exit status 1") as error:
        launching.run()
    assert "ValueError: no such layer" in error.value.message
    assert f"{REQUEST.name}-{pod}" in error.value.message
    assert 120 <= seconds(launching) <= 160
    assert not launching.cluster.operator.jobs[0].exists


def test_a_retryable_exit_that_is_not_replaced_is_retryable(launching: Launching) -> None:
    steps = (Step(19, FakeJob.neglect), Step(20, lambda job: job.exit_pod(137)))
    launching.cluster.operator.plans.append((*START, *steps))
    with pytest.raises(JobRetryableError, match="exit status 137"):
        launching.run()
    assert seconds(launching) <= 160


def test_a_success_that_the_controller_does_not_report_is_not_waited_for(
    launching: Launching,
) -> None:
    def end(job: FakeJob) -> None:
        job.neglect()
        for pod in ("master-0", "worker-0"):
            job.exit_pod(0, pod=pod, reason="Completed")

    launching.cluster.operator.plans.append((*START, Step(20, end)))
    with pytest.raises(JobRetryableError, match=r"all pods of the job .* succeeded") as error:
        launching.run()
    assert "training operator 1.9 runs" in error.value.repair
    assert seconds(launching) <= 160


def test_a_job_without_pods_and_events_points_at_the_controller(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="advgrpo")
    launching.cluster.operator.plans.append(())
    with pytest.raises(JobRetryableError, match=r"training operator 1\.9 may not be running"):
        launching.run()
    assert 120 <= seconds(launching) <= 160
    assert "has no pods: no event explains it" in caplog.text


def test_an_outage_of_the_api_server_is_not_counted_as_neglect(launching: Launching) -> None:
    cluster = launching.cluster
    # The controller cannot replace the pod before the API server answers it again.
    cluster.operator.restart_seconds = 620
    cluster.operator.plans.append(
        (*START, Step(20, lambda job: job.exit_pod(151)), Step(700, FakeJob.succeed))
    )
    cluster.faults.plan(Fault("status", skip=16, times=25))
    launching.run()
    assert seconds(launching) >= 700


def test_a_worker_refused_by_pod_security_is_reported_within_a_minute(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="advgrpo")
    message = RESTRICTED.format(container="init-pytorch")
    launching.cluster.operator.plans.append((refuse(message, "worker-0"), Step(2, FakeJob.run)))
    with pytest.raises(JobFailedError, match="violates PodSecurity") as error:
        launching.run()
    assert "--pytorch-init-container-template-file" in error.value.repair
    assert INIT_CONTAINER_TEMPLATE in error.value.repair
    assert seconds(launching) < 60
    assert "lacks 1 of 2 pods: FailedCreatePod" in caplog.text


@pytest.mark.parametrize(("answer", "status"), [("Name: master", 0), ("", 1)])
def test_the_init_container_goes_by_the_address_and_not_by_the_status_of_nslookup(
    answer: str, status: int, tmp_path: Path
) -> None:
    # BusyBox 1.35 tries every search domain and exits with 1 although one has the name.
    nslookup = tmp_path / "nslookup"
    nslookup.write_text(f"#!/bin/sh\necho Server: 10.96.0.10\necho {answer}\nexit 1\n")
    nslookup.chmod(0o755)
    text = INIT_CONTAINER_TEMPLATE.replace("sleep 2", "true").replace("{{.MaxTries}}", "2")
    (container,) = yaml.safe_load(re.sub(r"{{\.(\w+)}}", r"\1", text))
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(container["command"], env=path, check=False).returncode == status
    page = Path(__file__).parents[2] / "docs" / "operating.md"
    assert textwrap.indent(INIT_CONTAINER_TEMPLATE, "  ") in page.read_text(encoding="utf-8")


def test_a_quota_that_may_get_room_is_reported_and_waited_for(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    message = (
        'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, '
        "used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=12"
    )
    launching.cluster.operator.plans.append((refuse(message, "worker-0"), Step(2, FakeJob.run)))
    settings = SETTINGS.model_copy(update={"startup_timeout_seconds": 300})
    with pytest.raises(JobDeadlineError, match="exceeded quota: gpus"):
        Launching(launching.cluster, launching.clock, settings).run()
    assert seconds(launching) > 300
    assert "lacks 1 of 2 pods" in caplog.text


def test_a_container_that_cannot_be_started_is_not_retried_for_long(launching: Launching) -> None:
    message = 'exec: "python": executable file not found in $PATH'
    steps = [
        Step(20 * n, lambda job: job.exit_pod(128, reason="StartError", message=message))
        for n in range(1, 20)
    ]
    launching.cluster.operator.restart_seconds = 8
    launching.cluster.operator.plans.append((*START, *steps))
    with pytest.raises(JobFailedError, match="executable file not found"):
        launching.run()
    assert seconds(launching) <= 80


@pytest.mark.parametrize(
    ("warning", "repair"),
    [
        (RESTRICTED.format(container="pytorch"), "Pod Security level"),
        ('error looking up service account a/b: serviceaccount "b" not found', "account b"),
        ('admission webhook "policy" denied the request: no latest tags', "policy"),
        (
            "exceeded quota: q, requested: memory=64Gi, used: memory=0, limited: memory=48Gi",
            "ResourceQuota for memory",
        ),
    ],
)
def test_a_refusal_that_remains_has_a_repair(warning: str, repair: str) -> None:
    assert repair in refusal_repair(warning, {})


@pytest.mark.parametrize(
    "warning",
    [
        "FailedScheduling: 0/5 nodes are available",
        'Internal error occurred: failed calling webhook "x": connection refused',
        "exceeded quota: q, requested: pods=1, used: pods=9, limited: pods=9",
    ],
)
def test_a_refusal_that_may_pass_is_waited_for(warning: str) -> None:
    assert refusal_repair(warning, {}) == ""


def test_missing_pods_of_a_suspended_job_are_not_missed(
    launching: Launching, cluster: FakeCluster
) -> None:
    cluster.operator.plans.append(
        (
            Step(0, FakeJob.suspend),
            Step(900, FakeJob.resume),
            Step(910, FakeJob.add_pods),
            Step(911, FakeJob.run),
            Step(930, FakeJob.succeed),
        )
    )
    launching.run()
