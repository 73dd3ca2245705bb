from typing import Any

import pytest

from advgrpo.errors import ClusterError, ClusterUnavailableError, PipelineError
from advgrpo.kfp_client import KfpServer, PipelineVersion, start_run, watch_run
from advgrpo.testing import KfpFault, StubKfp

TASKS = {"train": "Train", "evaluate": "Evaluate"}


def _state(run: str, **tasks: str) -> dict[str, Any]:
    details = [{"display_name": name, "state": state} for name, state in tasks.items()]
    return {"state": run, "run_details": {"task_details": details}}


def _failed(run: dict[str, Any], task: str, message: str) -> dict[str, Any]:
    for detail in run["run_details"]["task_details"]:
        if detail["display_name"] == task:
            detail["error"] = {"code": 9, "message": message}
    return run


@pytest.fixture
def run_id(server: KfpServer, version: PipelineVersion) -> str:
    return start_run(server, version, {"workspace": "s3://b/w"}, experiment="e", name="n").id


def _watch(server: KfpServer, run_id: str, patience_seconds: float = 60.0) -> list[str]:
    told: list[str] = []
    watch_run(
        server,
        run_id,
        tasks=TASKS,
        tell=told.append,
        poll_seconds=0.01,
        patience_seconds=patience_seconds,
    )
    return told


def test_each_change_is_told_once(stub: StubKfp, server: KfpServer, run_id: str) -> None:
    stub.progress = [
        _state("PENDING"),
        _state("RUNNING", train="RUNNING"),
        _state("RUNNING", **{"train": "RUNNING", "train-driver": "SUCCEEDED"}),
        _state("SUCCEEDED", train="SUCCEEDED"),
    ]
    assert _watch(server, run_id) == [
        "the run waits",
        "task Train runs",
        "the run runs",
        "task Train is done",
        "the run is done",
    ]


def test_a_failed_run_fails_with_the_task_and_its_words(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    end = _state("FAILED", train="FAILED", evaluate="SKIPPED", root="FAILED")
    stub.progress = [_failed(end, "train", "exit code 13")]
    with pytest.raises(PipelineError, match="task Train: exit code 13") as caught:
        _watch(server, run_id)
    assert "root" not in caught.value.message
    assert run_id in caught.value.repair


def test_a_failure_that_no_task_of_ours_has_is_told_as_it_is(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    stub.progress = [_state("FAILED", **{"root-driver": "FAILED"})]
    with pytest.raises(PipelineError, match="task root-driver"):
        _watch(server, run_id)


@pytest.mark.parametrize(("state", "said"), [("CANCELED", "was cancelled"), ("SKIPPED", "skipped")])
def test_an_end_that_is_no_success_is_never_taken_for_one(
    stub: StubKfp, server: KfpServer, run_id: str, state: str, said: str
) -> None:
    stub.progress = [_state("RUNNING"), _state(state)]
    with pytest.raises(PipelineError, match=said):
        _watch(server, run_id)


@pytest.mark.parametrize("fault", ["drop", "lose_answer", 502, 429])
@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED"])
def test_the_true_end_is_found_through_a_broken_connection(
    stub: StubKfp, server: KfpServer, run_id: str, fault: KfpFault, end: str
) -> None:
    stub.progress = [_state("RUNNING"), _state("RUNNING"), _state(end)]
    stub.fail("GET", "/runs/", fault, times=5)
    if end == "SUCCEEDED":
        assert "the server answers again" in _watch(server, run_id)
    else:
        with pytest.raises(PipelineError, match="the run failed"):
            _watch(server, run_id)


def test_a_lasting_silence_ends_the_watch_and_not_the_run(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    stub.fail("GET", "/runs/", 503, times=10_000)
    with pytest.raises(ClusterUnavailableError, match="the run goes on") as caught:
        _watch(server, run_id, patience_seconds=0.05)
    assert f"advgrpo pipeline watch {run_id}" in caught.value.repair


def test_a_token_that_expires_ends_the_watch_and_not_the_run(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    stub.progress = [_state("RUNNING")]
    told: list[str] = []

    def expire(line: str) -> None:
        told.append(line)
        stub.token = "another"

    with pytest.raises(ClusterError, match="the run goes on") as caught:
        watch_run(server, run_id, tasks=TASKS, tell=expire, poll_seconds=0.01)
    assert told == ["the run runs"]
    assert "advgrpo pipeline watch" in caught.value.repair


def test_a_run_that_is_deleted_meanwhile_is_no_success(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    stub.progress = [_state("RUNNING")]
    with pytest.raises(PipelineError, match="was deleted"):
        watch_run(
            server,
            run_id,
            tasks=TASKS,
            tell=lambda _: stub.runs.clear(),
            poll_seconds=0.01,
        )


def test_a_run_that_never_was_is_an_error_of_the_id(server: KfpServer) -> None:
    with pytest.raises(ClusterError, match="Run nothing not found"):
        _watch(server, "nothing")
