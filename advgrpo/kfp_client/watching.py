"""Watching of a run until it ends, across connection losses."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from advgrpo.errors import AdvGrpoError, ClusterError, ClusterUnavailableError, PipelineError
from advgrpo.kfp_client.server import KfpRefusedError, KfpServer
from advgrpo.kfp_client.task_log import find_error

_WORDS = {
    "PENDING": "is pending",
    "RUNNING": "is running",
    "SUCCEEDED": "succeeded",
    "SKIPPED": "was skipped",
    "FAILED": "failed",
    "CANCELING": "is being cancelled",
    "CANCELED": "was cancelled",
    "PAUSED": "is paused",
}
_DRIVER = re.compile(r"(?P<task>.+?)-driver(\(\d+\))?")
"""Name of the node that Pipelines adds before a task, or before the whole pipeline (`root`)."""

_ENDS = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}

_LATE_POLLS = 3
"""Further polls: Pipelines has states, pods and logs of tasks later than the end of the run."""


def watch_run(
    server: KfpServer,
    run_id: str,
    *,
    tasks: Mapping[str, str],
    report: Callable[[str], None],
    poll_seconds: float = 5.0,
    patience_seconds: float = 1800.0,
) -> None:
    """Watch a run until it ends; the run does not depend on it.

    Args:
        server: Server of the run.
        run_id: Id of the run.
        tasks: Label of each task to report, by task name.
        report: Called with a line for each change of the run's or a task's state.
        poll_seconds: Time between two polls.
        patience_seconds: How long the server may be unavailable.

    Raises:
        PipelineError: If the run failed, was cancelled, skipped or deleted; names the failed task.
        ClusterUnavailableError: If the server was unavailable for too long. The run continues.
        ClusterError: If the server no longer accepts the credentials. The run continues.
    """
    watch = _Watch(server, run_id, tasks, report, patience_seconds)
    while (run := watch.poll()) is None or run.state not in _ENDS:
        time.sleep(poll_seconds)
    for _ in range(_LATE_POLLS):
        if _run_state(run) != "FAILED" or watch.explains(run):
            break
        time.sleep(poll_seconds)
        run = watch.poll() or run
    if run.state != "SUCCEEDED":
        raise watch.failure(run)


class _Watch:
    """The states reported so far, and since when the server is unavailable."""

    def __init__(
        self,
        server: KfpServer,
        run_id: str,
        tasks: Mapping[str, str],
        report: Callable[[str], None],
        patience_seconds: float,
    ) -> None:
        self._server = server
        self._run_id = run_id
        self._labels = {**tasks, **{label: label for label in tasks.values()}}
        self._report = report
        self._patience_seconds = patience_seconds
        self._reported: dict[str, str] = {}
        self._unavailable_since: float | None = None

    def poll(self) -> Any | None:  # noqa: ANN401 - untyped library
        """Read the run and report changes; return None if the server is unavailable."""
        try:
            # Once: the next poll is the retry.
            run = self._server.read_once(
                f"read the run {self._run_id}",
                self._server.runs.run_service_get_run,
                run_id=self._run_id,
            )
        except ClusterUnavailableError as error:
            self._wait(error)
            return None
        except ClusterError as error:
            raise self._lost_run(error) from error
        if self._unavailable_since is not None:
            self._unavailable_since = None
            self._report("the server is available again")
        # Tasks first: the end of the run must be the last line.
        for label, state in self._states(run).items():
            self._report_state(label, state)
        self._report_state("the run", _run_state(run))
        return run

    def explains(self, run: Any) -> bool:  # noqa: ANN401 - untyped library
        """Return whether a failed run, or a log of its tasks, says why it failed."""
        failed = self._failed_tasks(run)
        if not failed:
            return bool(_error_text(run.error))
        return self._has_message(failed) or self._logged_error(run) is not None

    def failure(self, run: Any) -> PipelineError:  # noqa: ANN401 - untyped library
        """Return the error of a run that did not succeed."""
        url = self._server.page(f"runs/details/{self._run_id}")
        state = _run_state(run)
        if state != "FAILED":
            return PipelineError(f"the run {_WORDS[state]}: {url}")
        failed = self._failed_tasks(run)
        # Pipelines also lists drivers and the root DAG, which fail along with a task.
        ours = [task for task in failed if task.display_name in self._labels]
        # Argo has a node for each attempt of a driver besides the driver's own.
        causes = list(dict.fromkeys(self._cause(task) for task in ours or failed))
        repair = f"read the task's log at {url}"
        # Pipelines has no message for a container that failed; the log of its pod has one.
        error = None if self._has_message(failed) else self._logged_error(run)
        if error is not None:
            causes = [f"{'; '.join(causes)}: {error.message}"]
            repair = f"{error.repair or 'read the log'}; see {url}"
        cause = "; ".join(causes) or _error_text(run.error) or "Kubeflow Pipelines names no task"
        return PipelineError(
            f"the run failed: {cause}",
            repair=f"{repair}; a run with the same settings and workspace "
            "resumes from the finished tasks",
        )

    def _failed_tasks(self, run: Any) -> list[Any]:  # noqa: ANN401 - untyped library
        """Return the failed tasks; without one, the nodes of Argo that explain the failure."""
        failed = [task for task in _details(run) if task.state == "FAILED"]
        ours = [task for task in failed if task.display_name in self._labels]
        explained = [task for task in failed if _error_text(task.error)]
        return ours or explained or [t for t in failed if _DRIVER.fullmatch(str(t.display_name))]

    def _has_message(self, failed: list[Any]) -> bool:
        return any(_error_text(task.error) for task in failed)

    def _logged_error(self, run: Any) -> AdvGrpoError | None:  # noqa: ANN401 - untyped library
        nodes = [node for node in _details(run) if node.state == "FAILED"]
        return find_error(self._server, self._run_id, nodes)

    def _cause(self, task: Any) -> str:  # noqa: ANN401 - untyped library
        message = _error_text(task.error)
        if match := _DRIVER.fullmatch(str(task.display_name)):
            # A driver prepares a task: it resolves inputs and writes the pod.
            owner = self._labels.get(match["task"])
            name = f"the driver of task {owner}" if owner else "the driver of the pipeline"
            return f"{name}: {message}" if message else name
        label = self._labels.get(task.display_name, task.display_name)
        return f"task {label}: {message}" if message else f"task {label}"

    def _states(self, run: Any) -> dict[str, str]:  # noqa: ANN401 - untyped library
        return {
            f"task {self._labels[task.display_name]}": str(task.state)
            for task in _details(run)
            if task.display_name in self._labels and task.state
        }

    def _report_state(self, name: str, state: str) -> None:
        if self._reported.get(name) != state:
            self._reported[name] = state
            self._report(f"{name} {_WORDS.get(state, state)}")

    def _wait(self, error: ClusterUnavailableError) -> None:
        now = time.monotonic()
        if self._unavailable_since is None:
            self._unavailable_since = now
            self._report(f"{error.message}; the run continues, and polling does too")
        # Measured from the first failure in a row: each answer starts it over.
        elif now - self._unavailable_since > self._patience_seconds:
            raise ClusterUnavailableError(
                f"the server has been unavailable for {self._patience_seconds:.0f} s; the run "
                "continues",
                repair=f"watch it again with: advgrpo pipeline watch {self._run_id}",
            ) from error

    def _lost_run(self, error: ClusterError) -> ClusterError | PipelineError:
        if self._reported and isinstance(error, KfpRefusedError) and error.status == 404:
            return PipelineError(f"the run {self._run_id} was deleted")
        # The run was never seen, so the id may be wrong.
        if not self._reported:
            return error
        return ClusterError(
            f"{error.message}; the run continues",
            repair=f"{error.repair}; then: advgrpo pipeline watch {self._run_id}",
        )


def _run_state(run: Any) -> str:  # noqa: ANN401 - untyped library
    """Return the state of a run. One that was terminated ends as FAILED in Kubeflow Pipelines."""
    state = str(run.state or "PENDING")
    earlier = {str(one.state) for one in run.state_history or ()}
    return "CANCELED" if state == "FAILED" and "CANCELING" in earlier else state


def _details(run: Any) -> list[Any]:  # noqa: ANN401 - untyped library
    return list((run.run_details and run.run_details.task_details) or [])


def _error_text(error: Any) -> str:  # noqa: ANN401 - untyped library
    return str((error and error.message) or "")
