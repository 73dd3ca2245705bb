"""Follow a run to its end, through whatever happens to the connection."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from advgrpo.errors import ClusterError, ClusterUnavailableError, PipelineError
from advgrpo.kfp_client.server import KfpRefusedError, KfpServer

_WORDS = {
    "PENDING": "waits",
    "RUNNING": "runs",
    "SUCCEEDED": "is done",
    "SKIPPED": "was skipped",
    "FAILED": "failed",
    "CANCELING": "is being cancelled",
    "CANCELED": "was cancelled",
    "PAUSED": "is paused",
}
_ENDS = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}


def watch_run(
    server: KfpServer,
    run_id: str,
    *,
    tasks: Mapping[str, str],
    tell: Callable[[str], None],
    poll_seconds: float = 5.0,
    patience_seconds: float = 1800.0,
) -> None:
    """Follow a run until it ends; the run does not depend on being followed.

    Args:
        server: Where it runs.
        run_id: The run.
        tasks: What to call each task that is told of, by the task's name.
        tell: Gets a line for each change of the run or of a task.
        poll_seconds: Time between two looks.
        patience_seconds: Longest silence of the server.

    Raises:
        PipelineError: If the run failed, was cancelled, skipped or deleted; says which task failed.
        ClusterUnavailableError: If the server did not answer for so long. The run goes on.
        ClusterError: If the server no longer accepts who asks. The run goes on.
    """
    watch = _Watch(server, run_id, tasks, tell, patience_seconds)
    while (run := watch.look()) is None or run.state not in _ENDS:
        time.sleep(poll_seconds)
    if run.state != "SUCCEEDED":
        raise watch.explained(run)


class _Watch:
    """What has been told of a run, and since when its server is silent."""

    def __init__(
        self,
        server: KfpServer,
        run_id: str,
        tasks: Mapping[str, str],
        tell: Callable[[str], None],
        patience_seconds: float,
    ) -> None:
        self._server = server
        self._run_id = run_id
        self._labels = {**tasks, **{label: label for label in tasks.values()}}
        self._tell = tell
        self._patience_seconds = patience_seconds
        self._told: dict[str, str] = {}
        self._silent_since: float | None = None

    def look(self) -> Any | None:  # noqa: ANN401 - untyped library
        """Look at the run and tell what changed; None if the server is silent."""
        try:
            run = self._server.change(
                f"look at the run {self._run_id}",
                self._server.runs.run_service_get_run,
                run_id=self._run_id,
            )
        except ClusterUnavailableError as error:
            self._note_silence(error)
            return None
        except ClusterError as error:
            raise self._lost(error) from error
        if self._silent_since is not None:
            self._silent_since = None
            self._tell("the server answers again")
        for label, state in self._states(run).items():
            self._tell_of(label, state)
        self._tell_of("the run", str(run.state or "PENDING"))
        return run

    def explained(self, run: Any) -> PipelineError:  # noqa: ANN401 - untyped library
        """Say how a run ended that did not succeed."""
        url = self._server.page(f"runs/details/{self._run_id}")
        if run.state != "FAILED":
            return PipelineError(f"the run {_WORDS[run.state]}: {url}")
        failed = [task for task in _details(run) if task.state == "FAILED"]
        ours = [task for task in failed if task.display_name in self._labels]
        causes = [self._cause(task) for task in ours or failed]
        where = "; ".join(causes) or _said(run.error) or "Kubeflow Pipelines does not say where"
        return PipelineError(
            f"the run failed: {where}",
            repair=f"read the task's log at {url}; a run with the same settings and workspace goes "
            "on from what is done",
        )

    def _cause(self, task: Any) -> str:  # noqa: ANN401 - untyped library
        label = self._labels.get(task.display_name, task.display_name)
        said = _said(task.error)
        return f"task {label}: {said}" if said else f"task {label}"

    def _states(self, run: Any) -> dict[str, str]:  # noqa: ANN401 - untyped library
        return {
            f"task {self._labels[task.display_name]}": str(task.state)
            for task in _details(run)
            if task.display_name in self._labels and task.state
        }

    def _tell_of(self, what: str, state: str) -> None:
        if self._told.get(what) != state:
            self._told[what] = state
            self._tell(f"{what} {_WORDS.get(state, state)}")

    def _note_silence(self, error: ClusterUnavailableError) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
            self._tell(f"{error.message}; the run goes on, and so does the watch")
        elif now - self._silent_since > self._patience_seconds:
            raise ClusterUnavailableError(
                f"the server has been silent for {self._patience_seconds:.0f} s; the run goes on",
                repair=f"watch it again with: advgrpo pipeline watch {self._run_id}",
            ) from error

    def _lost(self, error: ClusterError) -> ClusterError | PipelineError:
        if self._told and isinstance(error, KfpRefusedError) and error.status == 404:
            return PipelineError(f"the run {self._run_id} was deleted")
        if not self._told:
            return error
        return ClusterError(
            f"{error.message}; the run goes on",
            repair=f"{error.repair}; then: advgrpo pipeline watch {self._run_id}",
        )


def _details(run: Any) -> list[Any]:  # noqa: ANN401 - untyped library
    return list((run.run_details and run.run_details.task_details) or [])


def _said(error: Any) -> str:  # noqa: ANN401 - untyped library
    return str((error and error.message) or "")
