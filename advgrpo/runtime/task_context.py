"""What is done around every task: its MLflow run, its cost, and what becomes of its failure."""

import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from advgrpo.errors import AdvGrpoError, Preempted, TrackingError
from advgrpo.runtime.failures import record_failures
from advgrpo.runtime.heartbeat import heartbeat
from advgrpo.runtime.nodes import nodes
from advgrpo.storage import cache_folder
from advgrpo.telemetry.logging import bind
from advgrpo.tracking import TaskRun, task_run
from advgrpo.tracking.address import TRACKING_URI

FAILURE_TAG = "advgrpo.failure"
"""Tag of a task's MLflow run: why it failed last."""

_LONGEST_TAG = 5000
"""What MLflow takes."""

_SELF_AND_CHILDREN = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

logger = logging.getLogger(__name__)


def outbox() -> Path:
    """Name the folder where records wait for an MLflow server that is not available."""
    return cache_folder() / "outbox"


class Cost:
    """What a task took so far.

    Args:
        processes: How many it works with.
    """

    def __init__(self, processes: int = 1) -> None:
        self._start, self._processes = time.monotonic(), processes

    def metrics(self) -> dict[str, float]:
        """Give seconds, and the largest resident memory of this process or one that it started."""
        peaks = [resource.getrusage(who).ru_maxrss for who in _SELF_AND_CHILDREN]
        return {
            "cost/seconds": time.monotonic() - self._start,
            "cost/peak_memory_mib": max(peaks) / 1024,
            "cost/processes": float(self._processes),
        }


@contextmanager
def tracked_task(name: str, parent_run_id: str, workspace: str = "") -> Iterator[TaskRun]:
    """Record a task, what it took, and why it failed.

    Args:
        name: What to call the task.
        parent_run_id: MLflow run to nest in; empty for a run of its own.
        workspace: Where to leave signs of life; empty for nowhere.
    """
    cost = Cost()
    with (
        report_failure(name, parent_run_id, workspace),
        recorded_task(name, parent_run_id) as run,
    ):
        try:
            yield run
        except AdvGrpoError as error:
            run.tags({FAILURE_TAG: str(error)[:_LONGEST_TAG]})
            raise
        run.metrics(cost.metrics(), step=0)


@contextmanager
def recorded_task(name: str, parent_run_id: str) -> Iterator[TaskRun]:
    """Record a task, and nothing else.

    Args:
        name: What to call the task.
        parent_run_id: MLflow run to nest in; empty for a run of its own.
    """
    with task_run(
        name,
        folder=outbox(),
        parent_run_id=parent_run_id or None,
        tracking_uri=os.environ.get(TRACKING_URI),
    ) as run:
        # Of an earlier attempt: this one has not failed.
        run.drop_tag(FAILURE_TAG)
        yield run


@contextmanager
def report_failure(
    name: str, parent_run_id: str, workspace: str = "", *, role: str = "task"
) -> Iterator[None]:
    """Note why a task failed, and mark the run that it is nested in as failed.

    Args:
        name: What to call the task.
        parent_run_id: MLflow run that the task's run is nested in; empty for none.
        workspace: Where to leave signs of life; empty for nowhere.
        role: What this process is to the task, in its signs of life.
    """
    if parent_run_id:
        bind(run=parent_run_id)
    tells = bool(workspace) and nodes().is_first
    signs = heartbeat(name, workspace, parent_run_id, role=role) if tells else nullcontext()
    with record_failures(name), signs:
        try:
            yield
        except Preempted:
            raise
        except Exception:
            _end_as_failed(parent_run_id)
            raise


def _end_as_failed(parent_run_id: str) -> None:
    tracking_uri = os.environ.get(TRACKING_URI)
    if not (parent_run_id and tracking_uri):
        return
    from advgrpo.tracking.runs import end_parent_run  # noqa: PLC0415 - MLflow takes seconds to load

    try:
        end_parent_run(parent_run_id, tracking_uri=tracking_uri, succeeded=False)
    except TrackingError as error:
        # The task's own failure is the one to report.
        logger.warning("%s", error)
