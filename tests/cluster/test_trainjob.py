"""TrainJobs: the object that is sent, its status, and the launcher against the fake Trainer."""

import json
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from advgrpo.cluster.api import Api
from advgrpo.cluster.backends.base import JobState
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.backends.registry import AUTO, select_backend
from advgrpo.cluster.backends.trainjob import RUNTIMES, TrainJobs
from advgrpo.cluster.checks.job_kind import check_kind
from advgrpo.cluster.janitor import clean
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import (
    ClusterError,
    ClusterUnavailableError,
    JobConflictError,
    JobDeadlineError,
    JobFailedError,
    JobRetryableError,
)
from advgrpo.testing import FakeCluster, FakeTrainJob, Fault, Step
from advgrpo.testing.cluster_objects import Json
from tests.cluster.clock import Clock
from tests.cluster.launching import POLICY, REQUEST, SETTINGS, Launching, api_of

SCHEMA = json.loads((Path(__file__).parent / "trainjob.schema.json").read_text())
START = (Step(1, FakeTrainJob.add_pods), Step(2, FakeTrainJob.run))
TRAINER = SETTINGS.model_copy(update={"backend": "trainjob", "max_restarts": 2})
RUNTIME: Json = {"metadata": {"name": SETTINGS.training_runtime}}


@pytest.fixture
def cluster(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    for name in ("KFP_POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    with FakeCluster(clock=clock, job_type=FakeTrainJob) as cluster:
        yield cluster


@pytest.fixture
def api(cluster: FakeCluster, clock: Clock) -> Iterator[Api]:
    with closing(api_of(cluster, clock)) as api:
        yield api


@pytest.fixture
def launching(cluster: FakeCluster, clock: Clock) -> Launching:
    return Launching(cluster, clock, TRAINER, POLICY, TrainJobs())


def jobs(cluster: FakeCluster) -> list[Json]:
    return cluster.store.all(TrainJobs.resource.group, TrainJobs.resource.plural)


def manifest(processes: int = 16, **changes: Any) -> Json:  # noqa: ANN401
    request = JobRequest("train", "key", ("python", "-m", "worker"), processes)
    return TrainJobs().manifest(request, TRAINER.model_copy(update=changes))


@pytest.mark.parametrize(
    "changes", [{}, {"queue": "gpus"}, {"gpus_per_node": 0, "processes_per_node": 4}]
)
def test_the_object_fits_the_schema_of_the_kind(changes: dict[str, Any]) -> None:
    jsonschema.validate(manifest(**changes), SCHEMA)


def test_the_object_has_size_command_deadline_and_queue() -> None:
    job = manifest(32, deadline_seconds=1000, queue="gpus", training_runtime="grpo")
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    assert trainer["command"] == ["python", "-m", "worker"]
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "8"
    assert job["spec"]["activeDeadlineSeconds"] == 1900
    assert job["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "grpo",
    }  # fmt: skip
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"


@pytest.mark.parametrize(
    ("spec", "status", "state"),
    [
        ({}, None, JobState.STARTING),
        ({"suspend": True}, {}, JobState.QUEUED),
        ({}, {"jobsStatus": [{"name": "node", "ready": 0}]}, JobState.STARTING),
        ({}, {"jobsStatus": [{"name": "node", "ready": 1}]}, JobState.RUNNING),
        ({}, {"conditions": [{"type": "Complete", "status": "True"}]}, JobState.SUCCEEDED),
        ({}, {"conditions": [{"type": "Failed", "status": "True"}]}, JobState.FAILED),
        ({}, {"conditions": [{"type": "Failed", "status": "False"}]}, JobState.STARTING),
    ],
)
def test_the_state_follows_from_conditions_and_counts(
    spec: Json, status: Json | None, state: JobState
) -> None:
    job = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec}
    read = TrainJobs().status(job | {"status": status})
    assert read.state is state
    assert read.started_at == "2026-01-01T00:00:00Z"


def test_the_deadline_counts_from_the_last_admission() -> None:
    resumed = {"type": "Suspended", "status": "False", "lastTransitionTime": "2026-01-02T00:00:00Z"}
    late = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}
    job = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}}
    status = TrainJobs().status(job | {"status": {"conditions": [resumed, late]}})
    assert status.started_at == "2026-01-02T00:00:00Z"
    assert status.deadline_exceeded


def test_a_job_succeeds_and_its_first_pods_log_is_followed(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="advgrpo")
    plan = (*START, Step(3, lambda job: job.log("hello")), Step(30, FakeTrainJob.succeed))
    launching.cluster.operator.plans.append(plan)
    launching.run()
    lines = [r.getMessage() for r in caplog.records if r.name == "advgrpo.cluster.output"]
    assert lines == ["hello"]
    assert "running, 2 of 2 pods running" in caplog.text


def test_an_error_that_a_retry_cannot_fix_fails_the_job(launching: Launching) -> None:
    lines = Step(9, lambda job: job.log("error: training.updats is unknown", pod="worker-0"))
    end = Step(20, lambda job: job.exit_pod(2, pod="worker-0"))
    launching.cluster.operator.plans.append((*START, lines, end))
    with pytest.raises(JobFailedError, match="exit status 2") as error:
        launching.run()
    assert f"{REQUEST.name}-node-0-1-" in error.value.message
    assert "training.updats is unknown" in error.value.message


def test_restarts_are_limited_by_the_runtime_and_evictions_do_not_count(
    launching: Launching,
) -> None:
    evictions = [Step(20 * n, lambda job: job.evict(pod="worker-0")) for n in range(1, 8)]
    deaths = [Step(200 + 20 * n, lambda job: job.exit_pod(137)) for n in range(1, 8)]
    launching.cluster.operator.plans.append((*START, *evictions, *deaths))
    settings = TRAINER.model_copy(update={"max_retries": 2})
    with pytest.raises(JobRetryableError, match="exit status 137"):
        Launching(launching.cluster, launching.clock, settings, POLICY, TrainJobs()).run()
    (job,) = launching.cluster.operator.jobs
    assert isinstance(job, FakeTrainJob)
    assert job.restarts == FakeTrainJob.max_restarts


def test_an_exit_between_two_polls_is_read_from_the_event(launching: Launching) -> None:
    def end(job: FakeTrainJob) -> None:
        job.exit_pod(3)
        for pod in job.pods:
            job._store.remove(pod)

    launching.cluster.operator.plans.append((*START, Step(21, end)))
    with pytest.raises(JobFailedError, match="exit status 3"):
        launching.run()


def test_time_in_the_queue_does_not_count(launching: Launching) -> None:
    # Kueue could not admit a job with an empty value, or an amount that it writes as 500m or 2Gi.
    node = {"cpu": "0.5", "memory": "2048Mi"}
    limits = {"deadlineSeconds": 100, "startupTimeoutSeconds": 50}
    more = {"image": TRAINER.image, "node": node, "environment": {"NCCL_DEBUG": ""}, **limits}
    settings = ClusterSettings.model_validate(more)
    steps = [(0, FakeTrainJob.suspend), (5000, FakeTrainJob.resume), (5001, FakeTrainJob.add_pods)]
    steps += [(5002, FakeTrainJob.run), (5030, FakeTrainJob.succeed)]
    launching.cluster.operator.plans.append([Step(at, act) for at, act in steps])
    Launching(launching.cluster, launching.clock, settings, POLICY, TrainJobs()).run()


def test_a_running_job_is_adopted_and_another_spec_is_refused(launching: Launching) -> None:
    cluster = launching.cluster
    # Kueue changes the spec on the server, which is not compared.
    queue = Step(0, FakeTrainJob.suspend), Step(1, FakeTrainJob.resume)
    cluster.operator.plans.append((*queue, *START, Step(2000, FakeTrainJob.succeed)))
    cluster.faults.plan(Fault("status", verb="get", resource="trainjobs", skip=2, times=999))
    with pytest.raises(ClusterUnavailableError):
        launching.run()
    cluster.faults.clear()
    other = TRAINER.model_copy(update={"image": "other"})
    with pytest.raises(JobConflictError, match="other settings"):
        Launching(cluster, launching.clock, other, POLICY, TrainJobs()).run()
    launching.run()
    assert len(cluster.operator.jobs) == 1


def test_events_of_an_earlier_job_of_the_name_are_not_its_own(launching: Launching) -> None:
    cluster = launching.cluster
    refused = Step(1, lambda job: job.record_event("FailedCreate", "exceeded quota: of yesterday"))
    cluster.operator.plans += [(refused, Step(2, FakeTrainJob.delete)), ()]
    with pytest.raises(JobRetryableError, match="deleted by somebody else"):
        launching.run()
    launching.clock.sleep(100)
    with pytest.raises(JobRetryableError, match=r"Kubeflow Trainer 2\.3 may not be running"):
        launching.run()


def test_a_missing_jobset_is_reported_soon(launching: Launching) -> None:
    text = 'TrainJob resources reconciliation failed: no matches for kind "JobSet" in version "x"'
    plan = [Step(1, lambda job: job.record_event("TrainJobResourcesCreationFailed", text))]
    launching.cluster.operator.plans.append(plan)
    with pytest.raises(JobFailedError, match="no matches for kind") as error:
        launching.run()
    assert "install JobSet" in error.value.repair


def test_unschedulable_pods_are_given_up_in_time(launching: Launching) -> None:
    settings = TRAINER.model_copy(update={"startup_timeout_seconds": 60})
    wait = Step(2, lambda job: job.wait_for_node("0/5: no GPU h900"))
    launching.cluster.operator.plans.append((START[0], wait))
    with pytest.raises(JobDeadlineError, match="no GPU h900"):
        Launching(launching.cluster, launching.clock, settings, POLICY, TrainJobs()).run()
    assert jobs(launching.cluster) == []


def test_the_janitor_deletes_a_finished_job_after_its_time_to_live(
    launching: Launching, api: Api
) -> None:
    launching.cluster.operator.plans.append((*START, Step(30, FakeTrainJob.succeed)))
    launching.run()
    assert (clean(api).ended, clean(api).deleted) == (1, [])
    launching.clock.sleep(TRAINER.ttl_seconds_after_finished + 60)
    assert clean(api).deleted == [REQUEST.name]


def test_auto_prefers_trainjob_if_the_cluster_has_all_that_it_needs(
    cluster: FakeCluster, api: Api
) -> None:
    settings = SETTINGS.model_copy(update={"backend": AUTO})
    cluster.kinds.add(PyTorchJobs.resource)
    # The chart was installed before Trainer, and has created no runtime.
    assert isinstance(select_backend(settings, api), PyTorchJobs)
    cluster.create(RUNTIMES.plural, RUNTIME, group=RUNTIMES.group)
    assert isinstance(select_backend(settings, api), TrainJobs)
    cluster.missing_resources.add("jobsets")
    assert isinstance(select_backend(settings, api), PyTorchJobs)
    cluster.missing_resources.add("pytorchjobs")
    with pytest.raises(ClusterError, match="trainjob lacks the kind jobsets") as error:
        select_backend(settings, api)
    assert "pytorchjob lacks the kind pytorchjobs" in error.value.message
    assert "JobSet" in error.value.repair


def checks(api: Api, **changes: Any) -> dict[str, tuple[str, str]]:  # noqa: ANN401
    found = check_kind(api, TrainJobs(), TRAINER.model_copy(update=changes))
    return {check.name: (check.state, check.repair) for check in found}


def test_the_doctor_checks_kinds_runtime_and_release(cluster: FakeCluster, api: Api) -> None:
    release = "release of Kubeflow Trainer 2.3"
    document = "/openapi/v3/apis/trainer.kubeflow.org/v1alpha1"
    cluster.create(RUNTIMES.plural, RUNTIME, group=RUNTIMES.group)
    assert {state for state, _ in checks(api).values()} == {"OK", "SKIP"}
    for fields, state in (
        (["podTemplateOverrides"], "FAIL"),
        (["runtimePatches", "activeDeadlineSeconds"], "OK"),
    ):
        spec = {"properties": {key: {} for key in fields}}
        schema = {"properties": {"spec": spec}}
        schemas = {"org.kubeflow.trainer.v1alpha1.TrainJob": schema}
        cluster.documents[document] = {"components": {"schemas": schemas}}
        assert checks(api)[release][0] == state
    cluster.missing_resources.add("jobsets")
    assert checks(api)["kind jobsets.jobset.x-k8s.io/v1alpha2"] == (
        "FAIL", "install JobSet 0.12 or later",
    )  # fmt: skip
    assert checks(api, training_runtime="other")["training runtime other"][0] == "FAIL"


def test_the_doctor_finds_a_queue_that_does_not_manage_the_kind(
    cluster: FakeCluster, api: Api
) -> None:
    cluster.queued = False
    state, repair = checks(api, queue="gpus")["Kueue for trainjobs.trainer.kubeflow.org"]
    assert state == "FAIL"
    assert "trainer.kubeflow.org/trainjob" in repair
    cluster.queued = True
    assert checks(api, queue="gpus")["Kueue for trainjobs.trainer.kubeflow.org"][0] == "OK"
    assert jobs(cluster) == []
