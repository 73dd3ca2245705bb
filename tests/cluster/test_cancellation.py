import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advgrpo.cluster.api import Api
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.cancellation import CancelOnSignal
from advgrpo.cluster.workflow_owner import WorkflowOwner
from advgrpo.errors import Preempted
from advgrpo.testing import FakeCluster, FakeJob, Fault, Step
from advgrpo.testing.cluster_faults import FaultKind

RESOURCE = PyTorchJobs.resource
PROGRAM = """
from advgrpo.cluster.launcher import JobRequest, run_job
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.runtime.failures import run_as_process

settings = ClusterSettings(image="trainer", poll_seconds=0.2)
run_as_process(lambda: run_job(JobRequest("train", "key", ("true",), 8), settings))
"""


@pytest.fixture
def real_time() -> Iterator[FakeCluster]:
    with FakeCluster() as made:
        yield made


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met"
        time.sleep(0.02)


def test_a_process_that_is_terminated_deletes_its_job_at_once_and_exits_143(
    real_time: FakeCluster, tmp_path: Path
) -> None:
    cluster = real_time
    cluster.operator.plans.append((Step(0, FakeJob.add_pods), Step(0, FakeJob.run)))
    variables = {"KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig"))}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=variables | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        wait_for(lambda: sum(call.verb == "list" for call in cluster.calls) > 3)
        job = cluster.operator.jobs[0]
        launcher.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        wait_for(lambda: not job.exists)
        # The container may be killed after that.
        assert time.monotonic() - sent < 1
        said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 143
    assert "is being deleted" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_job_is_known_deletes_the_job_of_its_name(
    cluster: FakeCluster, api: Api, number: signal.Signals
) -> None:
    with pytest.raises(Preempted, match="is being deleted"), CancelOnSignal(api, RESOURCE, "job"):
        # The response of its creation is lost.
        cluster.create("pytorchjobs", {"metadata": {"name": "job"}}, group="kubeflow.org")
        signal.raise_signal(number)
    assert cluster.store.all("kubeflow.org", "pytorchjobs") == []


@pytest.mark.parametrize("kind", ["status", "reset_before", "reset_after", "silence"])
def test_a_failed_delete_is_retried(cluster: FakeCluster, api: Api, kind: FaultKind) -> None:
    cluster.create("pytorchjobs", {"metadata": {"name": "job"}}, group="kubeflow.org")
    cluster.faults.plan(Fault(kind, verb="delete", times=2))
    with pytest.raises(Preempted), CancelOnSignal(api, RESOURCE, "job"):
        signal.raise_signal(signal.SIGTERM)
    assert cluster.store.all("kubeflow.org", "pytorchjobs") == []


def test_a_job_that_cannot_be_deleted_is_left_to_the_janitor(
    cluster: FakeCluster, api: Api
) -> None:
    cluster.create("pytorchjobs", {"metadata": {"name": "job"}}, group="kubeflow.org")
    cluster.faults.plan(Fault("status", times=100))
    with pytest.raises(Preempted, match="the janitor will"), CancelOnSignal(api, RESOURCE, "job"):
        signal.raise_signal(signal.SIGTERM)


def test_a_job_with_another_uid_is_kept(cluster: FakeCluster, api: Api) -> None:
    cluster.create("pytorchjobs", {"metadata": {"name": "job"}}, group="kubeflow.org")
    with pytest.raises(Preempted), CancelOnSignal(api, RESOURCE, "job") as canceller:
        canceller.uid = "another"
        signal.raise_signal(signal.SIGTERM)
    assert len(cluster.store.all("kubeflow.org", "pytorchjobs")) == 1


def test_a_signal_while_the_connection_is_in_use_opens_another_one(
    cluster: FakeCluster, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.create("pytorchjobs", {"metadata": {"name": "job"}}, group="kubeflow.org")
    with CancelOnSignal(api, RESOURCE, "job") as canceller:

        def interrupted(*_: object, **__: object) -> None:
            signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(canceller._api, "get", interrupted)
        with pytest.raises(Preempted):
            canceller.keep_warm()
    assert cluster.store.all("kubeflow.org", "pytorchjobs") == []


FLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
OWNER = WorkflowOwner("argoproj.io/v1alpha1", "flow", "")


@pytest.mark.parametrize(
    ("workflow", "number", "deleted"),
    [
        ({}, signal.SIGTERM, False),
        ({"status": {"phase": "Running"}}, signal.SIGTERM, False),
        ({}, signal.SIGINT, True),
        ({"spec": {"shutdown": "Terminate"}}, signal.SIGTERM, True),
        ({"spec": {"shutdown": "Stop"}}, signal.SIGTERM, True),
        ({"spec": {"activeDeadlineSeconds": 0}}, signal.SIGTERM, True),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, signal.SIGTERM, True),
        ({"status": {"phase": "Failed"}}, signal.SIGTERM, True),
        (None, signal.SIGTERM, True),
    ],
)
def test_only_a_cancelled_run_deletes_its_job(
    cluster: FakeCluster,
    api: Api,
    workflow: dict[str, Any] | None,
    number: signal.Signals,
    deleted: bool,
) -> None:
    cluster.create("pytorchjobs", {"metadata": {"name": "job"}}, group="kubeflow.org")
    if workflow is not None:
        meta = {"name": "flow", **workflow.get("metadata", {})}
        cluster.create("workflows", FLOW | workflow | {"metadata": meta}, group="argoproj.io")
    said = "is being deleted" if deleted else "the job job continues"
    with pytest.raises(Preempted, match=said), CancelOnSignal(api, RESOURCE, "job", OWNER):
        signal.raise_signal(number)
    assert bool(cluster.store.all("kubeflow.org", "pytorchjobs")) is not deleted


def test_a_workflow_that_cannot_be_read_counts_as_cancelled(cluster: FakeCluster, api: Api) -> None:
    cluster.create("pytorchjobs", {"metadata": {"name": "job"}}, group="kubeflow.org")
    cluster.denied.add(("get", "workflows"))
    with pytest.raises(Preempted), CancelOnSignal(api, RESOURCE, "job", OWNER):
        signal.raise_signal(signal.SIGTERM)
    assert cluster.store.all("kubeflow.org", "pytorchjobs") == []


def test_outside_of_the_main_thread_signal_handlers_are_unchanged(api: Api) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def enter() -> None:
        with CancelOnSignal(api, RESOURCE, "job"):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
