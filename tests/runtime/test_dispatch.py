"""What a task that runs as a job fails with."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from advgrpo.demo.servers import BUCKET, EmbeddedServers
from advgrpo.errors import AdvGrpoError, JobFailedError, NonFiniteError, StorageError
from advgrpo.runtime.dispatch import FAILURE_PREFIX, OUTCOME_FILE, run_in_pod, run_task
from advgrpo.runtime.failures import Failure
from advgrpo.runtime.pipeline_tasks import TRAIN
from advgrpo.runtime.remote_call import write_arguments
from advgrpo.runtime.results import TaskResult
from advgrpo.storage import join, write_bytes
from advgrpo.testing import FakeCluster, FakeJob, Step

JOB = replace(TRAIN, finished="")
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2 GiB"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    with FakeCluster() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        settings = {"image": "trainer", "poll_seconds": 0.1, "max_restarts": 0}
        monkeypatch.setenv("ADVGRPO_CLUSTER", json.dumps(settings))
        yield cluster


@pytest.mark.parametrize(
    ("kind", "code", "reason", "error_type", "message"),
    [
        ("NonFiniteError", 7, "Error", NonFiniteError, "why the rank failed"),
        # Not an AdvGrpoError: the diagnosis of the job is more specific.
        ("OutOfMemoryError", 9, "Error", JobFailedError, "the GPU is out of memory"),
        # A consequence on a surviving machine.
        ("RankFailedError", 137, "OOMKilled", JobFailedError, "memory limit"),
    ],
)
def test_the_most_specific_cause_is_raised(
    stores: EmbeddedServers,  # noqa: ARG001 - must run
    cluster: FakeCluster,
    tmp_path: Path,
    kind: str,
    code: int,
    reason: str,
    error_type: type[AdvGrpoError],
    message: str,
) -> None:
    def fail(job: FakeJob) -> None:
        master = job.body["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
        folder = master["containers"][0]["command"][-1]
        failure = json.dumps(asdict(Failure("train", kind, "why the rank failed", "")))
        write_bytes(join(folder, f"{FAILURE_PREFIX}0.json"), failure.encode())
        job.log(OUT_OF_MEMORY if kind == "OutOfMemoryError" else "the end")
        job.exit_pod(code, reason=reason)

    cluster.operator.restart_seconds = 0.3
    cluster.operator.plans.append(
        (Step(0, FakeJob.add_pods), Step(0, FakeJob.run), Step(0.2, fail))
    )
    with pytest.raises(error_type, match=message):
        run_task(JOB, {"workspace": f"s3://{BUCKET}/{tmp_path.name}"}, run_id="1")


EARLIER = TaskResult("s3://earlier", {"updates": 2.0})


def find_earlier(*, workspace: str) -> TaskResult | None:
    assert workspace
    return EARLIER


def find_with_error(*, workspace: str) -> TaskResult | None:
    raise StorageError(f"{workspace} cannot be read")


def read_run_id(*, workspace: str) -> TaskResult:
    return TaskResult(
        workspace, {name: 0.0 for name in ("LD_PRELOAD", "MLFLOW_RUN_ID") if name in os.environ}
    )


def test_a_pod_gets_the_mlflow_run_of_its_task_and_no_other_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Restores it afterwards.
    monkeypatch.setenv("MLFLOW_RUN_ID", "")
    monkeypatch.delenv("MLFLOW_RUN_ID")
    variables = {"MLFLOW_RUN_ID": "1", "LD_PRELOAD": "x.so"}
    write_arguments(str(tmp_path), {"workspace": str(tmp_path), "environment": variables})
    run_in_pod("train", f"{__name__}:read_run_id", str(tmp_path))
    assert json.loads((tmp_path / OUTCOME_FILE).read_text())["metrics"] == {"MLFLOW_RUN_ID": 0.0}


def test_no_job_is_started_for_what_an_earlier_run_has_finished(
    stores: EmbeddedServers,  # noqa: ARG001 - must run
    cluster: FakeCluster,
    tmp_path: Path,
) -> None:
    arguments = {"workspace": f"s3://{BUCKET}/{tmp_path.name}"}
    task = replace(TRAIN, finished=f"{__name__}:find_earlier")
    assert run_task(task, arguments, run_id="1") is EARLIER
    assert cluster.operator.jobs == []
    # What the launcher cannot read, the job may: it decides.
    cluster.operator.plans.append((Step(0, FakeJob.add_pods), Step(0, lambda job: job.fail("no"))))
    with pytest.raises(JobFailedError):
        run_task(replace(TRAIN, finished=f"{__name__}:find_with_error"), arguments, run_id="1")
    assert len(cluster.operator.jobs) == 1
