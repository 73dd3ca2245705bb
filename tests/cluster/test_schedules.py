"""Property test of the launcher: random schedules of failures, and invariants of the outcome."""

import copy
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from advgrpo.cluster.api import Json, RetryPolicy
from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.backends.trainjob import TrainJobs
from advgrpo.cluster.janitor import clean
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import (
    ClusterError,
    ClusterUnavailableError,
    JobDeadlineError,
    JobFailedError,
    JobRetryableError,
    Preempted,
)
from advgrpo.testing import FakeCluster, FakeJob, FakeTrainJob, Fault, Step
from advgrpo.testing.cluster_faults import FaultKind
from tests.cluster.clock import Clock
from tests.cluster.launching import REQUEST, SETTINGS, Launching, api_of

SCHEDULES = int(os.environ.get("ADVGRPO_SCHEDULES", "40"))
"""Number of schedules; raise it with the environment variable."""

IMPATIENT = SETTINGS.model_copy(
    update={
        "deadline_seconds": 500,
        "startup_timeout_seconds": 200,
        "max_restarts": 2,
        "poll_seconds": 15.0,
    }
)
POLICY = RetryPolicy(connect_timeout_seconds=1.0, read_timeout_seconds=0.2)
ATTEMPTS = 3
JOBS = "jobs"
"""Stands for the kind of job in the resource of a fault."""

WRITTEN = {kind: kind().manifest(REQUEST, IMPATIENT) for kind in (PyTorchJobs, TrainJobs)}
OWNER = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "flow"}


class WrittenOnce:
    """A manifest that is prepared: writing it takes most of a schedule's time."""

    def manifest(self, request: JobRequest, settings: ClusterSettings) -> Json:
        assert (request, settings.image) == (REQUEST, IMPATIENT.image)
        return copy.deepcopy(WRITTEN[type(self).__mro__[2]])


class WrittenPyTorchJobs(WrittenOnce, PyTorchJobs):
    """PyTorchJobs."""


class WrittenTrainJobs(WrittenOnce, TrainJobs):
    """TrainJobs."""


BACKENDS: dict[type[FakeJob], JobBackend] = {
    FakeJob: WrittenPyTorchJobs(),
    FakeTrainJob: WrittenTrainJobs(),
}


class KilledError(BaseException):
    """The launcher's process is killed."""


@dataclass
class Interruption(Clock):
    """A clock that stops or kills the launcher while it sleeps."""

    base: Clock = field(default_factory=Clock)
    at: float = float("inf")
    act: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.base()

    def sleep(self, seconds: float) -> None:
        self.base.sleep(seconds)
        if self.base() >= self.at:
            self.at = float("inf")
            self.act()


def _kill() -> None:
    raise KilledError


INTERRUPTIONS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "cancel": partial(signal.raise_signal, signal.SIGTERM),
    "drain": partial(signal.raise_signal, signal.SIGTERM),
    "kill": _kill,
}


@dataclass(frozen=True)
class Schedule:
    """Events of one example."""

    end: str
    end_seconds: int
    happenings: list[tuple[int, str]]
    faults: list[Fault]
    interruption: str
    interruption_seconds: int
    deletion_seconds: int
    max_retries: int


def faults() -> st.SearchStrategy[Fault]:
    """Return mostly transient faults, and a few permanent ones."""
    times = st.integers(1, 6) | st.integers(20, 60)
    anywhere: dict[str, st.SearchStrategy[Any]] = {
        "skip": st.integers(0, 40),
        "verb": st.sampled_from(["", "get", "list", "create", "delete", "patch"]),
        "resource": st.sampled_from(["", "", JOBS, "pods", "pods/log", "events"]),
    }
    statuses = st.builds(
        Fault,
        kind=st.just("status"),
        status=st.sampled_from([410, 429, 500, 502, 503, 504]),
        retry_after_seconds=st.none() | st.integers(0, 200),
        times=times,
        **anywhere,
    )
    conflict = st.builds(
        Fault, kind=st.just("status"), status=st.just(409), times=times, skip=anywhere["skip"],
        verb=st.sampled_from(["create", "delete"]),
    )  # fmt: skip
    kinds: list[FaultKind] = ["reset_before", "reset_after", "cut"]
    broken = st.builds(Fault, kind=st.sampled_from(kinds), times=times, **anywhere)
    silent_kinds: list[FaultKind] = ["silence", "silence_after"]
    silent = st.builds(Fault, kind=st.sampled_from(silent_kinds), **anywhere)
    # A log that is truncated at the end of a line over a properly closed connection cannot be
    # detected; API servers send logs in chunks, which reveal it.
    quiet = st.builds(
        Fault, kind=st.just("cut_quietly"), times=times, **anywhere | {"resource": st.just("pods")}
    )
    return statuses | conflict | broken | silent | quiet


def schedules() -> st.SearchStrategy[Schedule]:
    """Return schedules."""
    pods = ["master-0", "worker-0"]
    happenings = ["delete", "replace", "suspend", *(f"evict {p}" for p in pods)]
    happenings += [f"{code} {pod}" for code in (137, 143, 151) for pod in pods]
    return st.builds(
        Schedule,
        end=st.sampled_from(["succeed", "succeed", "1", "2", "fail", "hang"]),
        end_seconds=st.integers(3, 300),
        happenings=st.lists(
            st.tuples(st.integers(0, 300), st.sampled_from(happenings)), max_size=4
        ),
        faults=st.lists(faults(), max_size=4),
        interruption=st.sampled_from(["none", "none", "none", *INTERRUPTIONS]),
        interruption_seconds=st.integers(0, 300),
        deletion_seconds=st.sampled_from([0, 40]),
        max_retries=st.sampled_from([0, 0, 2]),
    )


def _add_pods(job: FakeJob) -> None:
    job.add_pods()


def _run(job: FakeJob) -> None:
    job.run()


@pytest.fixture(scope="module")
def clusters(clock: Clock) -> Iterator[dict[type[FakeJob], FakeCluster]]:
    with ExitStack() as stack:
        yield {
            job_type: stack.enter_context(FakeCluster(clock=clock, job_type=job_type))
            for job_type in BACKENDS
        }


class World:
    """A cluster in which a schedule happens, and observations of it."""

    def __init__(self, cluster: FakeCluster, clock: Clock, schedule: Schedule) -> None:
        self.cluster = cluster
        self.clock = clock
        self.schedule = schedule
        self.at_once = 0
        self.meddled = 0
        """How often another client deleted or replaced a job."""

        cluster.reset()
        self.backend = BACKENDS[cluster.operator.job_type]
        cluster.store.deletion_seconds = schedule.deletion_seconds
        cluster.operator.plans.append(self._plan())
        flow = {"metadata": {"name": "flow"}, "status": {"phase": "Running"}}
        self.flow = cluster.create("workflows", flow, group="argoproj.io")
        owner = OWNER | {"uid": self.flow["metadata"]["uid"]}
        cluster.create("pods", {"metadata": {"name": "me", "ownerReferences": [owner]}})
        plural = self.backend.resource.plural
        for fault in schedule.faults:
            named = plural if fault.resource == JOBS else fault.resource
            cluster.faults.plan(replace(fault, resource=named))

    def _plan(self) -> list[Step]:
        plan = [Step(0, self._count), Step(1, _add_pods), Step(2, _run)]
        plan += [
            Step(at, lambda job, at=at: job.log(f"{job.uid} {at} {self.clock()} line", "…" * 9))
            for at in range(2, 300, 7)
        ]
        plan += [Step(at, partial(self._happen, what)) for at, what in self.schedule.happenings]
        end, at = self.schedule.end, self.schedule.end_seconds
        if end != "hang":
            plan.append(Step(at, partial(self._end, end)))
        return plan

    def _count(self, job: FakeJob) -> None:
        others = [one for one in self.cluster.operator.jobs if one is not job]
        self.at_once = max(self.at_once, 1 + sum(one.exists or bool(one.pods) for one in others))

    def _happen(self, what: str, job: FakeJob) -> None:
        if what in {"delete", "replace"}:
            # A replacement has the same plan, so the number of replacements needs a bound.
            if self.meddled < 3:
                self.meddled += 1
                getattr(job, what)()
        elif what == "suspend":
            job.suspend()
            job.resume()
            job.add_pods()
            job.run()
        elif what.startswith("evict"):
            job.evict(pod=what.split()[1])
        else:
            code, pod = what.split()
            job.exit_pod(int(code), pod=pod)

    def _end(self, end: str, job: FakeJob) -> None:
        if end in {"succeed", "fail"}:
            getattr(job, end)()
        else:
            job.exit_pod(int(end))

    def interrupt(self) -> None:
        """Interrupt the launcher as the schedule says."""
        if self.schedule.interruption == "cancel":
            self.flow["spec"] = {"shutdown": "Terminate"}
        INTERRUPTIONS[self.schedule.interruption]()

    @property
    def job(self) -> FakeJob | None:
        """The latest job."""
        return next(reversed(self.cluster.operator.jobs), None)

    @property
    def succeeded(self) -> bool:
        """Whether the latest job did."""
        return self.job is not None and self.job.end == "Succeeded"

    def longest_outage(self) -> float:
        """Return an upper bound of the server's longest outage."""
        waits = (max(30, f.retry_after_seconds or 0) * f.times for f in self.schedule.faults)
        return sum(min(wait, 120 * 60) for wait in waits)


def launch(world: World) -> str:
    """Retry like a pipeline until the job has ended, and return the end."""
    schedule, clock = world.schedule, world.clock

    settings = IMPATIENT.model_copy(update={"max_retries": schedule.max_retries})
    at = clock() + schedule.interruption_seconds
    moving = Interruption(base=clock, at=at, act=world.interrupt)
    for _ in range(ATTEMPTS):
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign] # noqa: B023
        output = logging.getLogger("advgrpo.cluster.output")
        output.setLevel(logging.INFO)
        output.addHandler(handler)
        try:
            Launching(world.cluster, moving, settings, POLICY, world.backend).run()
        except KilledError:
            end = "killed"
        except Preempted as error:
            end = check_interruption(world, error)
        except ClusterError as error:
            check_verdict(world, error)
            end = type(error).__name__
        else:
            assert world.succeeded, "green for a job that did not succeed"
            end = "green"
        finally:
            output.removeHandler(handler)
        check_log(world, lines, complete=end == "green")
        event(end)
        if end not in {"JobRetryableError", "ClusterUnavailableError", "killed", "drained"}:
            return end
    return end


def check_interruption(world: World, error: Preempted) -> str:
    if "continues" in error.message:
        assert world.schedule.interruption == "drain"
        return "drained"
    if "is being deleted" in error.message and world.job is not None and not world.meddled:
        assert not world.job.is_active
    return "stopped"


def check_verdict(world: World, error: ClusterError) -> None:
    if isinstance(error, ClusterUnavailableError):
        assert world.longest_outage() > 0.5 * POLICY.budget_seconds
    elif isinstance(error, JobFailedError | JobDeadlineError):
        assert not world.succeeded, "red for a job that succeeded"
    else:
        assert isinstance(error, JobRetryableError), error
        assert not world.succeeded or world.meddled, "red for a job that succeeded"


def check_log(world: World, lines: list[str], *, complete: bool) -> None:
    numbered = [line for line in lines if "line" in line]
    assert len(numbered) == len(set(numbered)), "a line was repeated"
    job = world.job
    # The log may have been unreadable for too long after the end.
    if complete and job is not None and world.longest_outage() < 0.5 * POLICY.budget_seconds:
        pod = job.pod()
        assert pod is not None
        said = [
            text for _, text in world.cluster.operator.logs.lines.get(pod["metadata"]["uid"], ())
        ]
        assert lines[len(lines) - len(said) :] == said, "a line was lost"


@settings(
    max_examples=SCHEDULES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    derandomize="ADVGRPO_SCHEDULES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.parametrize("job_type", BACKENDS)
@given(schedule=schedules())
def test_the_outcome_is_true_and_nothing_is_left_behind(
    clusters: dict[type[FakeJob], FakeCluster],
    job_type: type[FakeJob],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    schedule: Schedule,
) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "me")
    shared_cluster = clusters[job_type]
    world = World(shared_cluster, clock, schedule)
    # A signal before the job exists ends the process.
    before = signal.signal(signal.SIGTERM, lambda *_: _kill())
    try:
        launch(world)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert world.at_once <= 1, "two jobs at once"
    shared_cluster.faults.clear()
    with closing(api_of(shared_cluster, clock)) as api:
        clean(api)
        running = [job for job in shared_cluster.operator.jobs if job.is_active]
        assert clean(api).deleted == []
        assert [job for job in shared_cluster.operator.jobs if job.is_active] == running
        world.flow["status"]["phase"] = "Failed"
        clean(api)
    assert not [job for job in shared_cluster.operator.jobs if job.is_active], "an orphan"
