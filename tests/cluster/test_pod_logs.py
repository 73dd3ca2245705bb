from collections.abc import Callable
from contextlib import suppress

import pytest

from advgrpo.cluster.api import Api
from advgrpo.cluster.monitoring.pod_logs import LogFollower, tail
from advgrpo.errors import ClusterUnavailableError
from advgrpo.testing import FakeCluster, FakeJob, Fault, Step
from advgrpo.testing.cluster_faults import FaultKind
from tests.cluster.clock import Clock

TEMPLATE = {"spec": {"containers": [{"name": "pytorch"}]}}
JOB = {
    "metadata": {"name": "job"},
    "spec": {"pytorchReplicaSpecs": {"Master": {"replicas": 1, "template": TEMPLATE}}},
}


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def job(cluster: FakeCluster, api: Api) -> FakeJob:
    from advgrpo.cluster.backends.pytorchjob import PyTorchJobs

    cluster.operator.plans.append((Step(0, FakeJob.add_pods), Step(0, FakeJob.run)))
    api.create(PyTorchJobs.resource, JOB)
    api.list(PyTorchJobs.resource)
    return cluster.operator.jobs[0]


@pytest.fixture
def poll(api: Api, job: FakeJob, clock: Clock, lines: list[str]) -> Callable[..., None]:
    follower = LogFollower(api, lines.append)

    def ask(*, at_end: bool = False) -> None:
        pod = job.pod()
        assert pod is not None
        follower.poll("job-master-0", pod["metadata"]["uid"], "pytorch", at_end=at_end)
        clock.sleep(5)

    return ask


def test_each_line_is_handled_once(
    job: FakeJob, poll: Callable[..., None], lines: list[str], clock: Clock
) -> None:
    for number in range(20):
        job.log(f"line {number}", "the same line")
        clock.sleep(0.3)
        if number % 3 == 0:
            poll()
            poll()
    poll(at_end=True)
    assert lines == job.log_lines


@pytest.mark.parametrize("kind", ["cut", "cut_quietly", "reset_after", "silence", "status"])
def test_a_truncated_answer_neither_loses_nor_repeats_a_line(
    cluster: FakeCluster,
    job: FakeJob,
    poll: Callable[..., None],
    lines: list[str],
    kind: FaultKind,
) -> None:
    job.log("one", "a longer line, in which the answer is cut off", "x")
    cluster.faults.plan(Fault(kind, skip=1, times=2, resource="pods/log"))
    poll()
    job.log("four", "a line that is longer than all of the others together " * 4, "six")
    for _ in range(4):
        with suppress(ClusterUnavailableError):
            poll()
    assert lines == job.log_lines


def test_a_pod_of_the_same_name_is_read_from_its_beginning(
    job: FakeJob, poll: Callable[..., None], lines: list[str], clock: Clock
) -> None:
    job.log("first pod")
    poll()
    job.restart_pod("master-0")
    job.log("second pod", "second pod")
    clock.sleep(5)
    poll()
    poll(at_end=True)
    assert lines == ["first pod", "second pod", "second pod"]


def test_an_answer_of_the_next_pod_before_its_uid_is_known_repeats_nothing(
    job: FakeJob, api: Api, lines: list[str], clock: Clock
) -> None:
    follower = LogFollower(api, lines.append)
    follower.poll("job-master-0", "old", "pytorch")
    for _ in range(3):
        job.log("a", "b")
        clock.sleep(3)
    follower.poll("job-master-0", "old", "pytorch")
    job.log("c")
    follower.poll("job-master-0", "new", "pytorch")
    follower.poll("job-master-0", "new", "pytorch")
    assert lines == job.log_lines


def test_control_characters_are_kept(
    job: FakeJob, poll: Callable[..., None], lines: list[str]
) -> None:
    job.log("größer ▇▇ 50%\r60%")
    poll()
    assert lines == ["größer ▇▇ 50%\r60%"]


def test_an_unreadable_tail_is_empty(cluster: FakeCluster, job: FakeJob, api: Api) -> None:
    job.log(*map(str, range(9)))
    assert tail(api, "job-master-0", "pytorch", 2) == "7\n8\n"
    cluster.denied.add(("get", "pods/log"))
    assert tail(api, "job-master-0", "pytorch") == ""


def test_json_lines_are_quoted_as_text(
    job: FakeJob, api: Api, poll: Callable[..., None], lines: list[str]
) -> None:
    line = '{"time": "t", "event": "error", "message": "no room", "repair": "free some"}'
    job.log(line)
    poll(at_end=True)
    assert lines == [line]
    assert tail(api, "job-master-0", "pytorch") == "no room\n  repair: free some\n"
