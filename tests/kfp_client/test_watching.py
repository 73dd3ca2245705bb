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
    reported: list[str] = []
    watch_run(
        server,
        run_id,
        tasks=TASKS,
        report=reported.append,
        poll_seconds=0.01,
        patience_seconds=patience_seconds,
    )
    return reported


def test_each_change_is_reported_once(stub: StubKfp, server: KfpServer, run_id: str) -> None:
    stub.progress = [
        _state("PENDING"),
        _state("RUNNING", train="RUNNING"),
        _state("RUNNING", **{"train": "RUNNING", "train-driver": "SUCCEEDED"}),
        _state("SUCCEEDED", train="SUCCEEDED"),
    ]
    assert _watch(server, run_id) == [
        "the run is pending",
        "task Train is running",
        "the run is running",
        "task Train succeeded",
        "the run succeeded",
    ]


def test_a_run_that_was_terminated_is_cancelled_although_it_ends_as_failed(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    history = [{"state": state} for state in ("RUNNING", "CANCELING", "FAILED")]
    ended = _state("FAILED", train="FAILED") | {"state_history": history}
    stub.progress = [_state("CANCELING", train="RUNNING"), ended]
    reported: list[str] = []
    with pytest.raises(PipelineError, match="the run was cancelled"):
        watch_run(server, run_id, tasks=TASKS, report=reported.append, poll_seconds=0.01)
    assert reported[-1] == "the run was cancelled"


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        ("train-driver", "the run failed: the driver of task Train: no workspace"),
        ("root-driver(0)", "the run failed: the driver of the pipeline: no workspace"),
    ],
)
def test_a_failed_driver_is_reported_by_its_message(
    stub: StubKfp, server: KfpServer, run_id: str, driver: str, said: str
) -> None:
    # Argo's nodes above it fail along with it, without a message.
    run = _state("FAILED", **{"root": "FAILED", driver: "FAILED"})
    # Pipelines writes the state of the run before those of the tasks.
    stub.progress = [_state("FAILED", train="PENDING"), _failed(run, driver, "no workspace")]
    with pytest.raises(PipelineError) as error:
        _watch(server, run_id)
    assert error.value.message == said


LOGS = {
    "text": "[KFP Executor]: Got executor_input\nerror: an earlier one\n  repair: none\n"
    "error: workspace=w: is local\n  repair: use s3://\nF1128 main.go: exit status 1\n",
    "json": '{"time": "t", "event": "error", "message": "workspace=w: is local", '
    '"repair": "use s3://"}\nF1128 main.go: exit status 1\n',
}


@pytest.mark.parametrize("log_format", LOGS)
def test_a_failed_task_without_a_message_is_explained_by_its_log(
    stub: StubKfp, server: KfpServer, run_id: str, log_format: str
) -> None:
    child = {"task_id": "2", "pod_name": "pod-2"}
    failed = {"display_name": "train", "state": "FAILED", "child_tasks": [child]}
    stub.progress = [{"state": "FAILED", "run_details": {"task_details": [failed]}}]
    stub.logs = {"pod-2": LOGS[log_format]}
    with pytest.raises(PipelineError, match="task Train: workspace=w: is local") as caught:
        _watch(server, run_id)
    assert caught.value.repair.startswith(f"use s3://; see {stub.endpoint}/#/runs/details/")


def test_the_log_of_a_task_is_read_when_its_pod_is_listed_after_the_runs_end(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    listed = {"display_name": "train", "state": "FAILED", "child_tasks": [{"pod_name": "pod-2"}]}
    stub.progress = [
        _state("FAILED", train="FAILED"),
        {"state": "FAILED", "run_details": {"task_details": [listed]}},
    ]
    stub.logs = {"pod-2": LOGS["json"]}
    with pytest.raises(PipelineError, match="task Train: workspace=w: is local"):
        _watch(server, run_id)


def test_the_log_of_the_task_is_found_among_those_of_argos_groups(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    groups = ("grpo-29tn9", "grpo-29tn9(0)", "root", "root(0)", "train", "train(0)", "executor")
    run = _state("FAILED", **dict.fromkeys(groups, "FAILED"))
    for number, node in enumerate(run["run_details"]["task_details"]):
        node["child_tasks"] = [{"pod_name": f"grpo-29tn9-{number}"}]
    stub.progress = [run]
    stub.logs = {"grpo-29tn9-6": LOGS["json"]}
    with pytest.raises(PipelineError, match="task Train: workspace=w: is local"):
        _watch(server, run_id)


@pytest.mark.parametrize("log", [None, "", "no error here"])
def test_a_failed_task_whose_log_explains_nothing_is_named_with_its_page(
    stub: StubKfp, server: KfpServer, run_id: str, log: str | None
) -> None:
    failed = {"display_name": "train", "state": "FAILED", "pod_name": "pod-1"}
    stub.progress = [{"state": "FAILED", "run_details": {"task_details": [failed]}}]
    stub.logs = {} if log is None else {"pod-1": log}
    with pytest.raises(PipelineError, match="task Train\n") as caught:
        _watch(server, run_id)
    assert caught.value.repair.startswith("read the task's log at")


def test_the_error_of_a_failed_run_has_the_task_and_its_message(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    end = _state("FAILED", train="FAILED", evaluate="SKIPPED", root="FAILED")
    stub.progress = [_failed(end, "train", "exit code 13")]
    with pytest.raises(PipelineError, match="task Train: exit code 13") as caught:
        _watch(server, run_id)
    assert "root" not in caught.value.message
    assert run_id in caught.value.repair


def test_a_failed_driver_is_named_once_with_the_end_of_its_log(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    # The nodes that Pipelines 2.17 lists: the workflow's and the driver's, each with an attempt.
    names = ("root-driver(0)", "root", "grpo-k6sgv(0)", "grpo-k6sgv", "root-driver")
    run = _state("FAILED", **dict.fromkeys(names, "FAILED"))
    for number, node in enumerate(run["run_details"]["task_details"]):
        node["child_tasks"] = [{"pod_name": f"grpo-k6sgv-{number}"}]
    stub.progress = [run]
    stub.logs = {
        "grpo-k6sgv-4": "I1128 19:04:54.334422      15 main.go:506] output execution.ID=1\n"
        "F1128 19:04:54.334496      15 main.go:127] KFP driver: failed to write outputs\n"
    }
    with pytest.raises(PipelineError) as error:
        _watch(server, run_id)
    assert (
        error.value.message == "the run failed: the driver of the pipeline: failed to write outputs"
    )


@pytest.mark.parametrize(
    ("state", "message"), [("CANCELED", "was cancelled"), ("SKIPPED", "skipped")]
)
def test_a_run_that_did_not_succeed_is_an_error(
    stub: StubKfp, server: KfpServer, run_id: str, state: str, message: str
) -> None:
    stub.progress = [_state("RUNNING"), _state(state)]
    with pytest.raises(PipelineError, match=message):
        _watch(server, run_id)


@pytest.mark.parametrize("fault", ["drop", "lose_answer", 502, 429])
@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED"])
def test_the_final_state_is_found_across_connection_losses(
    stub: StubKfp, server: KfpServer, run_id: str, fault: KfpFault, end: str
) -> None:
    stub.progress = [_state("RUNNING"), _state("RUNNING"), _state(end)]
    stub.fail("GET", "/runs/", fault, times=5)
    if end == "SUCCEEDED":
        assert "the server is available again" in _watch(server, run_id)
    else:
        with pytest.raises(PipelineError, match="the run failed"):
            _watch(server, run_id)


def test_a_long_outage_ends_the_watching_and_not_the_run(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    stub.fail("GET", "/runs/", 503, times=10_000)
    with pytest.raises(ClusterUnavailableError, match="the run continues") as caught:
        _watch(server, run_id, patience_seconds=0.05)
    assert f"advgrpo pipeline watch {run_id}" in caught.value.repair


def test_an_expired_token_ends_the_watching_and_not_the_run(
    stub: StubKfp, server: KfpServer, run_id: str
) -> None:
    stub.progress = [_state("RUNNING")]
    reported: list[str] = []

    def expire(line: str) -> None:
        reported.append(line)
        stub.token = "another"

    with pytest.raises(ClusterError, match="the run continues") as caught:
        watch_run(server, run_id, tasks=TASKS, report=expire, poll_seconds=0.01)
    assert reported == ["the run is running"]
    assert "advgrpo pipeline watch" in caught.value.repair


def test_a_deleted_run_is_an_error(stub: StubKfp, server: KfpServer, run_id: str) -> None:
    stub.progress = [_state("RUNNING")]
    with pytest.raises(PipelineError, match="was deleted"):
        watch_run(
            server,
            run_id,
            tasks=TASKS,
            report=lambda _: stub.runs.clear(),
            poll_seconds=0.01,
        )


def test_an_unknown_run_is_an_error(server: KfpServer) -> None:
    with pytest.raises(ClusterError, match="Run nothing not found"):
        _watch(server, "nothing")
