"""A second job backend, run by the real launcher, monitor, doctor and janitor."""

import json
import logging
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from advgrpo.cluster.backends.registry import BACKENDS, require_known
from advgrpo.cluster.checks.doctor import examine, require_ready
from advgrpo.cluster.janitor import clean
from advgrpo.cluster.roles import janitor_rules, launcher_rules
from advgrpo.errors import (
    ClusterError,
    ClusterUnavailableError,
    ConfigError,
    JobConflictError,
    JobDeadlineError,
    JobFailedError,
    JobRetryableError,
    Preempted,
)
from advgrpo.testing import FakeCluster, FakeJob, Fault, Step, run_until
from advgrpo.testing.cluster_objects import Json
from tests.cluster.clock import Clock
from tests.cluster.launching import POLICY, REQUEST, SETTINGS, Launching, api_of
from tests.cluster.toy_backend import RESOURCE, ToyJob, ToyJobs

START = (Step(1, ToyJob.add_pods), Step(2, ToyJob.run))
TOY = SETTINGS.model_copy(update={"backend": "toy", "max_restarts": 2})


@pytest.fixture
def cluster(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    monkeypatch.setitem(BACKENDS, "toy", ToyJobs())
    for name in ("KFP_POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    with FakeCluster(clock=clock, job_type=ToyJob) as cluster:
        yield cluster


@pytest.fixture
def launching(cluster: FakeCluster, clock: Clock) -> Launching:
    return Launching(cluster, clock, TOY, POLICY, BACKENDS["toy"])


def jobs(cluster: FakeCluster) -> list[Json]:
    return cluster.store.all(RESOURCE.group, RESOURCE.plural)


def test_a_job_succeeds_and_its_first_pods_log_is_followed(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="advgrpo")
    launching.cluster.operator.plans.append(run_until(FakeJob.succeed))
    launching.run()
    lines = [r.getMessage() for r in caplog.records if r.name == "advgrpo.cluster.output"]
    assert lines == ["hello", "world"]
    assert "running, 2 of 2 pods running" in caplog.text
    assert [job["metadata"]["name"] for job in jobs(launching.cluster)] == [REQUEST.name]


def test_only_requests_of_the_roles_are_sent(launching: Launching) -> None:
    cluster = launching.cluster
    cluster.operator.plans.append(run_until(FakeJob.succeed))
    launching.run()
    with closing(api_of(cluster, launching.clock)) as api:
        clean(api)
    rules = (*launcher_rules(ToyJobs()), *janitor_rules(BACKENDS.values()))
    allowed = {
        (verb, group, resource)
        for rule in rules
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert {(call.verb, call.group, call.resource) for call in cluster.calls} <= allowed


def test_a_failure_is_diagnosed(launching: Launching) -> None:
    launching.cluster.operator.plans.append(
        (
            *START,
            Step(3, lambda job: job.log("CUDA out of memory", pod="worker-0")),
            Step(20, lambda job: job.exit_pod(1, pod="worker-0")),
        )
    )
    with pytest.raises(JobFailedError, match="the GPU is out of memory") as error:
        launching.run()
    assert f"pod {REQUEST.name}-1-" in error.value.message
    assert "container main, exit status 1" in error.value.message


def test_a_job_without_pods_is_diagnosed_from_its_events(launching: Launching) -> None:
    plan = (Step(1, lambda job: job.record_event("FailedCreate", "exceeded quota: gpus")),)
    launching.cluster.operator.plans.append(plan)
    with pytest.raises(JobDeadlineError, match="exceeded quota: gpus"):
        launching.run()
    assert jobs(launching.cluster) == []


def test_a_failed_read_of_the_events_is_not_taken_for_none(launching: Launching) -> None:
    # They are read in each poll from 30 seconds on, and from 120 on a lack of them ends the run.
    cluster = launching.cluster
    cluster.faults.plan(Fault("status", verb="list", resource="events", skip=20))
    plan = (Step(1, lambda job: job.record_event("FailedCreate", "exceeded quota: gpus")),)
    cluster.operator.plans.append(plan)
    with pytest.raises(JobDeadlineError, match="exceeded quota: gpus"):
        launching.run()


def test_the_controllers_deadline_is_the_settings(launching: Launching) -> None:
    def end(job: FakeJob) -> None:
        job.fail()
        job.body["status"]["text"] = "late"

    launching.cluster.operator.plans.append((*START, Step(20, end)))
    with pytest.raises(JobDeadlineError, match=r"cluster\.deadlineSeconds"):
        launching.run()


def test_restarts_of_a_rank_are_counted_though_failed_pods_stay(launching: Launching) -> None:
    deaths = [Step(20 * n, lambda job: job.exit_pod(137, reason="OOMKilled")) for n in range(1, 9)]
    launching.cluster.operator.restart_seconds = 8
    launching.cluster.operator.plans.append((*START, *deaths))
    with pytest.raises(JobFailedError, match="exceeded its memory limit"):
        launching.run()
    assert 68 <= launching.clock() - launching.cluster.operator.jobs[0].created <= 80


def test_time_in_the_queue_does_not_count(launching: Launching) -> None:
    settings = TOY.model_copy(update={"deadline_seconds": 100, "startup_timeout_seconds": 50})
    steps = [(0, ToyJob.suspend), (5000, ToyJob.resume), (5001, ToyJob.add_pods)]
    steps += [(5002, ToyJob.run), (5030, FakeJob.succeed)]
    launching.cluster.operator.plans.append([Step(at, act) for at, act in steps])
    Launching(launching.cluster, launching.clock, settings, POLICY, ToyJobs()).run()


def test_a_running_job_is_adopted_and_another_spec_is_refused(launching: Launching) -> None:
    cluster = launching.cluster
    cluster.operator.plans.append((*START, Step(2000, FakeJob.succeed)))
    cluster.faults.plan(Fault("status", verb="get", resource=RESOURCE.plural, skip=2, times=999))
    with pytest.raises(ClusterUnavailableError):
        launching.run()
    cluster.faults.clear()
    other = TOY.model_copy(update={"image": "other"})
    with pytest.raises(JobConflictError, match="other settings") as error:
        Launching(cluster, launching.clock, other, POLICY, ToyJobs()).run()
    assert f"kubectl delete {RESOURCE} {REQUEST.name}" in error.value.repair
    launching.run()
    assert len(cluster.operator.jobs) == 1


def test_a_signal_deletes_the_job(launching: Launching) -> None:
    raised: list[FakeJob] = []
    launching.cluster.operator.plans.append((*START, Step(20, raised.append)))
    sleep = launching.clock.sleep

    class Sleeper(Clock):
        def __call__(self) -> float:
            return launching.clock()

        def sleep(self, seconds: float) -> None:
            sleep(seconds)
            if raised:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Preempted, match="is being deleted"):
        Launching(launching.cluster, Sleeper(), TOY, POLICY, ToyJobs()).run()
    assert jobs(launching.cluster) == []


def test_a_deleted_job_is_retryable(launching: Launching) -> None:
    launching.cluster.operator.plans.append((*START, Step(30, FakeJob.delete)))
    with pytest.raises(JobRetryableError, match="by somebody else"):
        launching.run()


@pytest.mark.parametrize("missing", [set(), {"pytorchjobs"}])
def test_the_janitor_deletes_jobs_of_each_backend(
    cluster: FakeCluster, clock: Clock, missing: set[str]
) -> None:
    labels = {"app.kubernetes.io/managed-by": "advgrpo", "advgrpo/workflow": "gone"}
    for name, kind in (("toy", RESOURCE), ("torch", BACKENDS["pytorchjob"].resource)):
        body = {"metadata": {"name": name, "labels": labels}}
        cluster.create(kind.plural, body, group=kind.group)
    cluster.kinds.add(BACKENDS["pytorchjob"].resource)
    cluster.missing_resources |= missing
    with closing(api_of(cluster, clock)) as api:
        assert clean(api).deleted == (["toy"] if missing else ["torch", "toy"])
        cluster.missing_resources |= {"pytorchjobs", RESOURCE.plural}
        with pytest.raises(ClusterError, match="does not know"):
            clean(api)


def test_the_doctor_checks_the_selected_kind(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setenv("ADVGRPO_CLUSTER", json.dumps({"image": "trainer", "backend": "toy"}))
    checks = {check.name: check for check in examine()}
    assert checks["kind toyjobs.toy.example/v1beta1"].state == "OK"
    assert checks["permissions of the current account"].state == "OK"
    assert not [name for name in checks if "pytorchjobs" in name]
    cluster.denied = {("create", "toyjobs")}
    with pytest.raises(ClusterError, match="may not create toyjobs"):
        require_ready(TOY)
    cluster.missing_resources.add("toyjobs")
    with pytest.raises(ClusterError, match="does not know it") as error:
        require_ready(TOY)
    assert error.value.repair == "install the toy operator"


def test_an_unknown_backend_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.backend=other: unknown") as error:
        require_known(SETTINGS.model_copy(update={"backend": "other"}))
    assert "pytorchjob" in error.value.repair
