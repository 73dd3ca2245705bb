import json
import logging
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from advgrpo.cluster.api import RetryPolicy
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.launcher import ATTEMPT, SPEC_HASH
from advgrpo.cluster.roles import launcher_rules
from advgrpo.errors import (
    ClusterError,
    ClusterUnavailableError,
    JobConflictError,
    JobDeadlineError,
    JobFailedError,
    JobRetryableError,
    Preempted,
    RankFailedError,
)
from advgrpo.telemetry.logging import is_quiet
from advgrpo.telemetry.prometheus import LAUNCHER
from advgrpo.testing import FakeCluster, FakeJob, Fault, Step, run_until
from advgrpo.testing.cluster_faults import FaultKind
from tests.cluster.clock import Clock
from tests.cluster.launching import REQUEST, SETTINGS, Launching

START = (Step(1, FakeJob.add_pods), Step(2, FakeJob.run))


@pytest.fixture(autouse=True)
def _all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="advgrpo")


def jobs(cluster: FakeCluster) -> list[dict[str, Any]]:
    return cluster.store.all("kubeflow.org", "pytorchjobs")


def output(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "advgrpo.cluster.output"]


def log_text(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records)


def test_a_job_succeeds_and_its_log_is_followed(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    launching.cluster.operator.plans.append(run_until(FakeJob.succeed))
    launching.run()
    assert output(caplog) == ["hello", "world"]
    assert "running, 2 of 2 pods running" in log_text(caplog)


def test_the_requests_are_allowed_by_the_role(launching: Launching) -> None:
    cluster = launching.cluster
    cluster.operator.plans += [
        (*START, Step(9, lambda job: job.exit_pod(1))),
        run_until(FakeJob.succeed),
    ]
    with pytest.raises(JobFailedError):
        launching.run()
    launching.run()
    allowed = {
        (verb, group, resource)
        for rule in launcher_rules(launching.backend)
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    asked = {(call.verb, call.group, call.resource) for call in cluster.calls}
    assert asked <= allowed
    # Only a launcher in a pipeline reads its pod and changes a job's owner; the first task alone
    # reads the queue.
    assert allowed - asked == {
        ("get", "", "pods"),
        ("get", "kueue.x-k8s.io", "localqueues"),
        ("get", "argoproj.io", "workflows"),
        ("patch", "kubeflow.org", "pytorchjobs"),
    }


def test_a_failure_names_pod_container_exit_status_last_lines_and_cause(
    launching: Launching,
) -> None:
    launching.cluster.operator.plans.append(
        (
            *START,
            Step(3, lambda job: job.log("reading settings", "error: training.updats is unknown")),
            Step(20, lambda job: job.exit_pod(2)),
        )
    )
    with pytest.raises(JobFailedError) as error:
        launching.run()
    name = REQUEST.name
    assert error.value.message == (
        f"the job {name} failed: pod {name}-master-0, container pytorch, exit status 2. Likely "
        "cause: a setting is unknown, ill-typed or impossible. Its last lines:\n"
        "    reading settings\n    error: training.updats is unknown"
    )


def test_a_failure_of_a_worker_quotes_the_workers_log(launching: Launching) -> None:
    launching.cluster.operator.plans.append(
        (
            *START,
            Step(
                3, lambda job: job.log("torch.OutOfMemoryError: CUDA out of memory", pod="worker-0")
            ),
            Step(20, lambda job: job.exit_pod(1, pod="worker-0")),
        )
    )
    with pytest.raises(JobFailedError, match="the GPU is out of memory") as error:
        launching.run()
    assert "CUDA out of memory" in error.value.message
    assert "worker-0" in error.value.message
    assert "microbatch_size" in error.value.repair


def test_a_job_with_the_same_spec_is_adopted(launching: Launching) -> None:
    cluster = launching.cluster
    cluster.operator.plans.append((*START, Step(50, FakeJob.succeed)))
    with pytest.raises(ClusterUnavailableError):
        interrupted = Launching(
            cluster,
            launching.clock,
            policy=RetryPolicy(budget_seconds=3.0, read_timeout_seconds=0.3),
        )
        cluster.faults.plan(Fault("status", verb="get", resource="pytorchjobs", skip=2, times=9))
        interrupted.run()
    assert len(jobs(cluster)) == 1
    cluster.faults.clear()
    launching.run()
    assert len(cluster.operator.jobs) == 1


def test_a_job_with_another_spec_is_refused_and_kept(launching: Launching) -> None:
    cluster = launching.cluster
    cluster.operator.plans.append((*START, Step(500, FakeJob.succeed)))
    other = SETTINGS.model_copy(update={"image": "other", "deadline_seconds": 10})
    with pytest.raises(ClusterUnavailableError):
        cluster.faults.plan(Fault("status", verb="get", resource="pytorchjobs", skip=2, times=99))
        Launching(cluster, launching.clock, other, RetryPolicy(budget_seconds=3.0)).run()
    cluster.faults.clear()
    with pytest.raises(JobConflictError, match="other settings") as error:
        launching.run()
    assert "kubectl delete" in error.value.repair
    assert len(jobs(cluster)) == 1


def test_a_foreign_job_of_the_name_is_refused(launching: Launching) -> None:
    body = {"metadata": {"name": REQUEST.name}, "spec": {}}
    launching.cluster.create("pytorchjobs", body, group="kubeflow.org")
    with pytest.raises(JobConflictError, match="not created by advgrpo"):
        launching.run()


def test_a_failed_job_is_created_again_once_it_is_deleted(
    launching: Launching,
) -> None:
    cluster = launching.cluster
    cluster.store.deletion_seconds = 60
    cluster.operator.plans += [
        (*START, Step(9, lambda job: job.exit_pod(1))),
        run_until(FakeJob.succeed),
    ]
    with pytest.raises(JobFailedError):
        launching.run()
    failed_at = launching.clock()
    launching.run()
    first, second = cluster.operator.jobs
    assert (first.exists, second.end) == (False, "Succeeded")
    assert second.created >= failed_at + 60


def test_a_job_that_succeeded_earlier_is_adopted(launching: Launching) -> None:
    launching.cluster.operator.plans.append(run_until(FakeJob.succeed))
    launching.run()
    launching.run()
    assert len(launching.cluster.operator.jobs) == 1


@pytest.mark.parametrize("kind", ["reset_after", "silence_after", "cut", "cut_quietly"])
def test_a_lost_response_of_a_creation_creates_no_second_job(
    launching: Launching, kind: FaultKind
) -> None:
    cluster = launching.cluster
    cluster.operator.plans.append(run_until(FakeJob.succeed))
    cluster.faults.plan(Fault(kind, verb="create", times=3))
    launching.run()
    assert len(cluster.operator.jobs) == 1


def test_a_job_of_this_launcher_that_failed_at_once_is_not_retried(
    launching: Launching,
) -> None:
    cluster = launching.cluster
    cluster.operator.plans.append(
        (Step(0, FakeJob.add_pods), Step(0, FakeJob.run), Step(0, lambda j: j.exit_pod(3)))
    )
    cluster.faults.plan(Fault("reset_after", verb="create"))
    with pytest.raises(JobFailedError, match="exit status 3"):
        launching.run()
    assert len(cluster.operator.jobs) == 1


def test_retry_after_is_respected(launching: Launching) -> None:
    cluster, before = launching.cluster, launching.clock()
    cluster.operator.plans.append(run_until(FakeJob.succeed, seconds=5))
    cluster.faults.plan(Fault("status", verb="create", status=429, retry_after_seconds=77))
    launching.run()
    assert launching.clock() - before >= 77


@pytest.mark.parametrize("status", [410, 429, 500, 502, 503, 504])
def test_an_outage_is_waited_for(launching: Launching, status: int) -> None:
    cluster = launching.cluster
    cluster.operator.plans.append(run_until(FakeJob.succeed))
    cluster.faults.plan(Fault("status", skip=1, times=10, status=status))
    launching.run()


def test_a_long_outage_is_a_retryable_error_and_keeps_the_job(
    launching: Launching,
) -> None:
    cluster = launching.cluster
    cluster.operator.plans.append((*START, Step(5000, FakeJob.succeed)))
    cluster.faults.plan(Fault("status", skip=3, times=10_000))
    before = launching.clock()
    with pytest.raises(ClusterUnavailableError, match="did not answer for") as error:
        launching.run()
    assert error.value.exit_code >= 128
    assert launching.clock() - before <= launching.policy.budget_seconds + 60
    assert len(jobs(cluster)) == 1


def test_time_in_the_queue_does_not_count(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS.model_copy(
        update={"deadline_seconds": 100, "startup_timeout_seconds": 50, "queue": "gpus"}
    )
    launching.cluster.operator.plans.append(
        (
            Step(0, FakeJob.suspend),
            Step(5000, FakeJob.resume),
            Step(5001, FakeJob.add_pods),
            Step(5002, FakeJob.run),
            Step(5030, FakeJob.suspend),
            Step(9000, FakeJob.resume),
            Step(9001, FakeJob.add_pods),
            Step(9002, FakeJob.run),
            Step(9030, FakeJob.succeed),
        )
    )
    Launching(launching.cluster, launching.clock, settings).run()
    assert "queued in gpus" in log_text(caplog)
    assert jobs(launching.cluster)[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


def test_a_job_that_exceeds_its_deadline_is_deleted(launching: Launching) -> None:
    settings = SETTINGS.model_copy(update={"deadline_seconds": 100})
    launching.cluster.operator.plans.append((*START, Step(5000, FakeJob.succeed)))
    with pytest.raises(JobDeadlineError, match="deadlineSeconds=100"):
        Launching(launching.cluster, launching.clock, settings).run()
    assert jobs(launching.cluster) == []


def test_the_time_before_the_adoption_counts(launching: Launching) -> None:
    cluster, clock = launching.cluster, launching.clock
    settings = SETTINGS.model_copy(update={"deadline_seconds": 1000})
    cluster.operator.plans.append((*START, Step(5000, FakeJob.succeed)))
    cluster.faults.plan(Fault("status", verb="get", resource="pytorchjobs", skip=3, times=99))
    with pytest.raises(ClusterUnavailableError):
        Launching(cluster, clock, settings, RetryPolicy(budget_seconds=3.0)).run()
    cluster.faults.clear()
    clock.sleep(900)
    before = clock()
    with pytest.raises(JobDeadlineError):
        Launching(cluster, clock, settings).run()
    assert clock() - before < 120


def test_unschedulable_pods_are_reported_at_once_and_given_up_in_time(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    launching.cluster.operator.plans.append(
        (Step(1, FakeJob.add_pods), Step(2, lambda job: job.wait_for_node("0/5: no GPU h900")))
    )
    before = launching.clock()
    with pytest.raises(JobDeadlineError, match=r"startupTimeoutSeconds=1800.*no GPU h900"):
        launching.run()
    assert launching.clock() - before < 1900
    first = next(r for r in caplog.records if "no GPU h900" in r.getMessage())
    assert "0 of 2 pods running" in first.getMessage()
    assert jobs(launching.cluster) == []


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("ImagePullBackOff", "registry.example/trainer:1", "cannot be pulled"),
        ("CreateContainerConfigError", 'secret "x" not found', "cannot be created"),
    ],
)
def test_a_container_that_cannot_start_fails_the_job_soon(
    launching: Launching, reason: str, message: str, words: str
) -> None:
    launching.cluster.operator.plans.append(
        (
            Step(1, FakeJob.add_pods),
            Step(2, lambda job: job.wait_in_container(reason, message)),
        )
    )
    before = launching.clock()
    with pytest.raises(JobFailedError, match=words) as error:
        launching.run()
    assert message in error.value.message
    assert launching.clock() - before < 200
    assert jobs(launching.cluster) == []


def test_a_job_without_pods_reports_the_reason(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    launching.cluster.operator.plans.append(
        (Step(1, lambda job: job.record_event("FailedCreatePod", "exceeded quota: gpus")),)
    )
    with pytest.raises(JobDeadlineError, match="exceeded quota: gpus"):
        launching.run()
    assert log_text(caplog).count("has no pods: FailedCreatePod: exceeded quota") == 1


def test_evictions_do_not_count_as_restarts(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    evictions = [
        Step(20 * number, lambda job: job.evict(message="node was low on memory"))
        for number in range(1, 15)
    ]
    launching.cluster.operator.restart_seconds = 8
    launching.cluster.operator.plans.append((*START, *evictions, Step(400, FakeJob.succeed)))
    launching.run()
    assert "restarted: the pod was preempted or evicted (Evicted: node was" in log_text(caplog)


def test_the_metrics_have_the_state_and_progress_of_the_job(launching: Launching) -> None:
    def value(name: str, **labels: str) -> float:
        return LAUNCHER.get_sample_value(f"advgrpo_{name}", labels) or 0.0

    restarts = value("launcher_restarts_total", task="train")
    line = {
        "time": "2026-01-02T03:04:05+00:00",
        "event": "update_finished",
        "message": "",
        "run": "of this test",
        "update": 3,
    }
    launching.cluster.operator.plans.append(
        (
            *START,
            Step(9, lambda job: job.log(json.dumps(line))),
            Step(20, lambda job: job.evict()),
            Step(90, FakeJob.succeed),
        )
    )
    launching.run()
    assert value("launcher_restarts_total", task="train") == restarts + 1
    assert value("launcher_job_state", task="train", state="succeeded") == 1
    assert value("launcher_job_state", task="train", state="running") == 0
    assert value("launcher_pods_wanted", task="train") == 2
    assert value("training_updates", run="of this test") == 3


def test_pods_without_restarts_are_counted_as_zero(launching: Launching) -> None:
    work = JobRequest("evaluate", "s3://bucket/jobs/evaluate-1", ("python",), processes=16)
    launching.cluster.operator.plans.append(run_until(FakeJob.succeed))
    launching.run(work)
    assert LAUNCHER.get_sample_value("advgrpo_launcher_restarts_total", {"task": "evaluate"}) == 0


def test_failures_that_follow_an_eviction_do_not_count_as_restarts(launching: Launching) -> None:
    steps = [
        Step(20 * number + seconds, act)
        for number in range(1, 15)
        for seconds, act in (
            (0, lambda job: job.evict(pod="worker-0")),
            (6, lambda job: job.exit_pod(RankFailedError.exit_code)),
        )
    ]
    launching.cluster.operator.restart_seconds = 8
    launching.cluster.operator.plans.append((*START, *steps, Step(400, FakeJob.succeed)))
    launching.run()


def test_an_eviction_excuses_one_failure_of_another_pod(launching: Launching) -> None:
    deaths = [Step(20 * n, lambda job: job.exit_pod(137)) for n in range(2, 20)]
    launching.cluster.operator.restart_seconds = 8
    launching.cluster.operator.plans.append(
        (*START, Step(20, lambda job: job.evict(pod="worker-0")), *deaths)
    )
    settings = SETTINGS.model_copy(update={"max_restarts": 3})
    with pytest.raises(JobRetryableError, match="exit status 137"):
        Launching(launching.cluster, launching.clock, settings).run()
    # It fails at 40, which is excused, then at 60, 80, 100 and 120, and restarts 8 s later.
    assert 128 <= launching.clock() - launching.cluster.operator.jobs[0].created <= 140


def test_a_pod_that_restarts_too_often_ends_the_job(launching: Launching) -> None:
    deaths = [Step(20 * n, lambda job: job.exit_pod(137, reason="OOMKilled")) for n in range(1, 9)]
    launching.cluster.operator.restart_seconds = 8
    launching.cluster.operator.plans.append((*START, *deaths, Step(4000, FakeJob.succeed)))
    settings = SETTINGS.model_copy(update={"max_restarts": 3})
    with pytest.raises(JobFailedError, match="exceeded its memory limit") as error:
        Launching(launching.cluster, launching.clock, settings).run()
    assert "exit status 137 (OOMKilled)" in error.value.message
    assert jobs(launching.cluster) == []


def test_an_earlier_eviction_is_not_the_cause_of_a_later_failure(launching: Launching) -> None:
    launching.cluster.operator.restart_seconds = 8
    launching.cluster.operator.plans.append(
        (
            *START,
            Step(20, lambda job: job.evict(pod="worker-0")),
            Step(90, lambda job: job.exit_pod(2)),
        )
    )
    with pytest.raises(JobFailedError, match="a setting is unknown"):
        launching.run()


def test_pods_after_a_suspension_are_not_restarts(launching: Launching) -> None:
    turns = [
        Step(100 * turn + seconds, act)
        for turn in range(5)
        for seconds, act in (
            (0, FakeJob.suspend),
            (20, FakeJob.resume),
            (21, FakeJob.add_pods),
            (22, FakeJob.run),
        )
    ]
    launching.cluster.operator.plans.append((*turns, Step(600, FakeJob.succeed)))
    settings = SETTINGS.model_copy(update={"max_restarts": 1})
    Launching(launching.cluster, launching.clock, settings).run()


def test_a_failure_between_two_polls_is_read_from_the_events(launching: Launching) -> None:
    launching.cluster.operator.restart_seconds = 0
    launching.cluster.operator.plans.append(
        (
            *START,
            Step(12, lambda job: job.exit_pod(151)),
            Step(60, lambda job: job.fail()),
        )
    )
    with pytest.raises(JobRetryableError, match=r"exit status 151.*a training process died"):
        launching.run()


@pytest.mark.parametrize("act", [FakeJob.delete, FakeJob.replace])
def test_a_job_that_was_deleted_or_replaced_is_retryable(
    launching: Launching, act: Callable[[FakeJob], None]
) -> None:
    launching.cluster.operator.plans.append((*START, Step(30, act)))
    with pytest.raises(JobRetryableError, match="by somebody else"):
        launching.run()


def test_a_signal_deletes_the_job_first(launching: Launching) -> None:
    cluster = launching.cluster

    cluster.operator.plans.append((*START, Step(30, FakeJob.succeed)))
    before = signal.getsignal(signal.SIGTERM)
    nap = launching.clock.sleep

    class Sleeper(Clock):
        def sleep(self, seconds: float) -> None:
            nap(seconds)
            if len(cluster.operator.jobs) and launching.clock() > began + 15:
                calls.append(len(cluster.calls))
                signal.raise_signal(signal.SIGTERM)

        def __call__(self) -> float:
            return launching.clock()

    began, calls = launching.clock(), []
    with pytest.raises(Preempted, match="is being deleted") as error:
        Launching(cluster, Sleeper()).run()
    assert error.value.exit_code == 143
    assert jobs(cluster) == []
    assert [call.verb for call in cluster.calls[calls[0] :]] == ["delete"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_job_belongs_to_the_pods_workflow(
    launching: Launching, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = launching.cluster
    pods_owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "flow"}
    cluster.create(
        "pods", {"metadata": {"name": "me", "ownerReferences": [pods_owner | {"uid": "flow-1"}]}}
    )
    monkeypatch.setenv("KFP_POD_NAME", "me")
    cluster.operator.plans.append(run_until(FakeJob.succeed))
    launching.run()
    meta = jobs(cluster)[0]["metadata"]
    assert meta["ownerReferences"] == [
        pods_owner | {"uid": "flow-1", "controller": False, "blockOwnerDeletion": False}
    ]
    assert meta["labels"]["advgrpo/workflow"] == "flow"
    assert meta["annotations"].keys() == {SPEC_HASH, ATTEMPT}


def test_an_adopted_job_gets_the_new_workflow_as_owner(
    launching: Launching, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = launching.cluster
    flow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "flow"}
    for uid in ("1", "2"):
        owners = [flow | {"uid": uid}]
        cluster.create("pods", {"metadata": {"name": f"me-{uid}", "ownerReferences": owners}})
    cluster.operator.plans.append((*START, Step(5000, FakeJob.succeed)))
    monkeypatch.setenv("KFP_POD_NAME", "me-1")
    cluster.faults.plan(Fault("status", verb="get", resource="pytorchjobs", skip=3, times=99))
    with pytest.raises(ClusterUnavailableError):
        Launching(cluster, launching.clock, policy=RetryPolicy(budget_seconds=3.0)).run()
    cluster.faults.clear()
    monkeypatch.setenv("KFP_POD_NAME", "me-2")
    launching.run()
    (job,) = jobs(cluster)
    assert [owner["uid"] for owner in job["metadata"]["ownerReferences"]] == ["2"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.missing_resources.add("pytorchjobs"), "does not know pytorchjobs"),
        (lambda c: c.denied.add(("create", "pytorchjobs")), "not allowed to create pytorchjobs"),
        (lambda c: c.namespaces.clear(), "the namespace default does not exist"),
    ],
)
def test_a_missing_prerequisite_is_named_at_once(
    launching: Launching, spoil: Callable[[FakeCluster], None], words: str
) -> None:
    spoil(launching.cluster)
    try:
        with pytest.raises(ClusterError, match=words) as error:
            launching.run()
    finally:
        launching.cluster.namespaces.add("default")
    assert error.value.repair
    assert error.value.exit_code < 128


@pytest.mark.parametrize("resource", ["pods", "pods/log", "events"])
def test_missing_permissions_for_pods_are_logged_and_the_job_continues(
    launching: Launching, resource: str, caplog: pytest.LogCaptureFixture
) -> None:
    launching.cluster.denied |= {("list", resource), ("get", resource)}
    launching.cluster.operator.plans.append(run_until(FakeJob.succeed))
    launching.run()
    if resource != "events":
        assert log_text(caplog).count(f"{resource.replace('/log', '')}") > 0
        assert sum("not allowed to" in r.getMessage() for r in caplog.records) == 1


def test_different_requests_get_different_valid_names() -> None:
    names = {
        JobRequest(task, key, (), 1).name
        for task in ("train", "reference-images", "x" * 80, "Über_Task")
        for key in ("a", "b")
    }
    assert len(names) == 8
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) for name in names)
    assert max(map(len, names)) <= 47


def retrying(launching: Launching, retries: int) -> Launching:
    settings = SETTINGS.model_copy(update={"max_retries": retries})
    return Launching(launching.cluster, launching.clock, settings)


@pytest.mark.parametrize("act", [FakeJob.delete, lambda job: job.fail("it was lost")])
def test_a_lost_job_is_retried_by_the_launcher_itself(
    launching: Launching, act: Callable[[FakeJob], None], caplog: pytest.LogCaptureFixture
) -> None:
    cluster = launching.cluster
    lost = (*START, Step(20, lambda job: job.exit_pod(151)), Step(21, act))
    cluster.operator.plans += [lost, lost, run_until(FakeJob.succeed)]
    retrying(launching, 2).run()
    assert [job.end for job in cluster.operator.jobs][-1] == "Succeeded"
    assert len(cluster.operator.jobs) == 3
    said = [r.getMessage() for r in caplog.records if not is_quiet(r)]
    assert any("retry 1 of 2 in 15 s" in line for line in said)
    assert any("retry 2 of 2 in 30 s" in line for line in said)
    assert output(caplog) == ["hello", "world"]


def test_the_retries_end(launching: Launching) -> None:
    launching.cluster.operator.plans.append((*START, Step(20, FakeJob.delete)))
    with pytest.raises(JobRetryableError):
        retrying(launching, 2).run()
    assert len(launching.cluster.operator.jobs) == 3


def test_a_job_that_would_fail_again_is_not_retried(launching: Launching) -> None:
    launching.cluster.operator.plans.append((*START, Step(20, lambda job: job.exit_pod(2))))
    with pytest.raises(JobFailedError):
        retrying(launching, 2).run()
    assert len(launching.cluster.operator.jobs) == 1


def test_the_job_of_a_workflow_that_was_deleted_is_not_retried(
    launching: Launching, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = launching.cluster
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "flow", "uid": "1"}
    cluster.create("pods", {"metadata": {"name": "me", "ownerReferences": [owner]}})
    monkeypatch.setenv("KFP_POD_NAME", "me")
    cluster.operator.plans.append((*START, Step(20, FakeJob.delete)))
    with pytest.raises(JobRetryableError):
        retrying(launching, 2).run()
    assert len(cluster.operator.jobs) == 1


def test_a_job_that_used_up_its_restarts_is_not_retried(launching: Launching) -> None:
    deaths = [Step(20 * n, lambda job: job.exit_pod(137)) for n in range(1, 9)]
    launching.cluster.operator.restart_seconds = 8
    launching.cluster.operator.plans.append((*START, *deaths))
    settings = SETTINGS.model_copy(update={"max_retries": 2, "max_restarts": 2})
    with pytest.raises(JobRetryableError, match="exit status 137"):
        Launching(launching.cluster, launching.clock, settings).run()
    assert len(launching.cluster.operator.jobs) == 1
