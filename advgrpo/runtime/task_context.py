"""Context of every task: its MLflow run, cost, heartbeat and failure."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from advgrpo.errors import AdvGrpoError, Preempted, TrackingError
from advgrpo.runtime.failures import record_failures
from advgrpo.runtime.heartbeat import heartbeat
from advgrpo.runtime.nodes import nodes
from advgrpo.runtime.peak_memory import peak_memory_mib
from advgrpo.storage.cache import cache_folder
from advgrpo.telemetry.logging import bind
from advgrpo.tracking.address import tracking_uri
from advgrpo.tracking.task_run import TaskRun, task_run

FAILURE_TAG = "advgrpo.failure"
"""Tag of a task's MLflow run with its last error."""

_MAX_TAG = 5000
"""Length of a tag's value that MLflow accepts."""

logger = logging.getLogger(__name__)


def outbox() -> Path:
    """Return the folder of records that wait for an MLflow server that is not available."""
    return cache_folder() / "outbox"


class Cost:
    """Time and memory of a task so far.

    Args:
        processes: Number of its processes.
    """

    def __init__(self, processes: int = 1) -> None:
        self._start, self._processes = time.monotonic(), processes

    def metrics(self) -> dict[str, float]:
        """Return seconds, and the peak resident memory of this process or one of its children."""
        return {
            "cost/seconds": time.monotonic() - self._start,
            "cost/peak_memory_mib": peak_memory_mib(with_children=True),
            "cost/processes": float(self._processes),
        }


@contextmanager
def track_task(name: str, parent_run_id: str, workspace: str = "") -> Iterator[TaskRun]:
    """Record a task with its cost and its failure.

    Args:
        name: Name of the task.
        parent_run_id: MLflow run to nest in; empty for a run of its own.
        workspace: Location for heartbeats; empty for none.
    """
    cost = Cost()
    with (
        report_failure(name, parent_run_id, workspace),
        record_task(name, parent_run_id) as run,
    ):
        try:
            yield run
        except AdvGrpoError as error:
            run.tags({FAILURE_TAG: str(error)[:_MAX_TAG]})
            raise
        run.metrics(cost.metrics(), step=0)


@contextmanager
def record_task(name: str, parent_run_id: str) -> Iterator[TaskRun]:
    """Record a task, without cost, heartbeat and failure.

    Args:
        name: Name of the task.
        parent_run_id: MLflow run to nest in; empty for a run of its own.
    """
    with task_run(
        name,
        folder=outbox(),
        parent_run_id=parent_run_id or None,
        tracking_uri=tracking_uri(),
    ) as run:
        # The tag of an earlier attempt: a retry continues its MLflow run.
        run.drop_tag(FAILURE_TAG)
        yield run


@contextmanager
def report_failure(
    name: str, parent_run_id: str, workspace: str = "", *, role: str = "task"
) -> Iterator[None]:
    """Record the failure of a task, and mark the run that it is nested in as failed.

    Args:
        name: Name of the task.
        parent_run_id: MLflow run that the task's run is nested in; empty for none.
        workspace: Location for heartbeats; empty for none.
        role: Role of this process in the task, for its heartbeat.
    """
    if parent_run_id:
        bind(run=parent_run_id)
    # The file's name has the role but not the machine: the others would overwrite it.
    beats = bool(workspace) and nodes().is_first
    beat = heartbeat(name, workspace, parent_run_id, role=role) if beats else nullcontext()
    with record_failures(name), beat:
        try:
            yield
        # A retry resumes the same run, so it has not failed.
        except Preempted:
            raise
        except Exception:
            _end_as_failed(parent_run_id)
            raise


def _end_as_failed(parent_run_id: str) -> None:
    address = tracking_uri()
    if not (parent_run_id and address):
        return
    from advgrpo.tracking.runs import end_parent_run  # noqa: PLC0415 - MLflow takes seconds to load

    try:
        end_parent_run(parent_run_id, tracking_uri=address, succeeded=False)
    except TrackingError as error:
        # A warning only: the task's own error is the one to raise.
        logger.warning("%s", error)
