"""Monitor of a job until its end: its state, its pods, and the log of its first pod."""

import logging
from datetime import datetime

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_errors import NotFoundError
from advgrpo.cluster.backends.base import JobBackend, JobState, JobStatus
from advgrpo.cluster.cancellation import CancelOnSignal
from advgrpo.cluster.job_request import JobRequest, place_processes
from advgrpo.cluster.monitoring.diagnosis import (
    blocking_reason,
    deadline_error,
    first_failure,
    job_error,
    pod_cause,
)
from advgrpo.cluster.monitoring.job_events import read_events, read_warnings
from advgrpo.cluster.monitoring.pod_history import PodHistory
from advgrpo.cluster.monitoring.pod_logs import LogFollower, tail
from advgrpo.cluster.monitoring.pods import read_pod
from advgrpo.cluster.monitoring.progress import Progress
from advgrpo.cluster.resources import PODS
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import (
    ClusterError,
    ClusterUnavailableError,
    JobRetryableError,
)
from advgrpo.telemetry.logging import JOB_OUTPUT, event
from advgrpo.telemetry.prometheus import (
    PODS_RUNNING,
    PODS_WANTED,
    RESTARTS,
    record_job_state,
    record_line,
)

_WARM_SECONDS = 30.0
"""Interval of requests that keep the connection for deleting open."""

logger = logging.getLogger(__name__)
output = logging.getLogger("advgrpo.cluster.output")
"""Logger of the lines of the first pod's log."""


class JobMonitor:
    """Monitor of one job.

    Args:
        job: The job as it was created or adopted.
        request: What it runs.
        settings: Settings of the cluster.
        api: Client of the API server.
        backend: The kind of job.
        canceller: Deletes the job on a signal.
        log: Follows the log of the first pod; shared by the attempts of a launcher, so that no line
            is repeated.
    """

    def __init__(
        self,
        job: Json,
        request: JobRequest,
        settings: ClusterSettings,
        api: Api,
        backend: JobBackend,
        canceller: CancelOnSignal,
        log: LogFollower,
    ) -> None:
        self._job = job
        self._name, self._uid = str(job["metadata"]["name"]), str(job["metadata"]["uid"])
        self._task = request.task
        placement = place_processes(request.processes, settings)
        self._nodes = placement.nodes
        self._settings = settings
        self._api = api
        self._backend = backend
        self._canceller = canceller
        self._history = PodHistory()
        self._present: set[int] | None = None
        """Ranks whose pods exist; None while they cannot be listed."""

        self._log = log
        self._last_text = ""
        self._warned: set[str] = set()
        self._failure: ClusterError | None = None
        self._failed_at = 0.0
        self._ended = False
        now = api.clock.monotonic()
        self._warm_at = now
        self._progress = Progress(
            self._name, backend, placement, settings, now, self._seconds_active(job)
        )

    @property
    def exhausted(self) -> bool:
        """Whether the job failed after all its restarts, so that another job would fail as well."""
        restarts, most = self._history.most_restarted[1], self._settings.max_restarts
        by_controller = self._backend.limits_restarts and restarts >= most > 0
        return self._progress.exhausted or (by_controller and self._ended)

    def wait(self) -> None:
        """Wait until the job has succeeded.

        Raises:
            ClusterError: If the job does not succeed, or the API server stops answering.
        """
        while True:
            status = self._backend.status(self._read_job())
            state = status.state
            if state is JobState.QUEUED:
                self._history.forget_pods()
            listed = self._read_pods(retry=state.is_end)
            # The pods must be known first: a replaced pod has another log.
            if listed or state.is_end:
                self._follow_log(at_end=state.is_end)
            self._report(state)
            if state is JobState.SUCCEEDED:
                return
            if state is JobState.FAILED:
                self._ended = True
                raise self._end_error(status)
            self._check_progress(state)
            self._keep_warm()
            self._api.clock.sleep(self._settings.poll_seconds)

    def _read_job(self) -> Json:
        try:
            job = self._api.get(self._backend.resource, self._name)
        except NotFoundError:
            raise self._failure or JobRetryableError(
                f"the job {self._name} was deleted by somebody else before its end",
                repair="run it again: it resumes from its last checkpoint",
            ) from None
        # The name is deterministic: another launcher of the same run may have recreated the job.
        if job["metadata"]["uid"] != self._uid:
            raise self._failure or JobRetryableError(
                f"the job {self._name} was deleted and created again by somebody else",
                repair="run it again: it adopts the new job",
            )
        return job

    def _read_pods(self, *, retry: bool) -> bool:
        selector = self._backend.pod_selector(self._job)
        try:
            found = self._api.list(PODS, retry=retry, labelSelector=selector)
        except ClusterError as error:
            self._warn_once(str(error))
            self._present = None
            return False
        pods = [
            read_pod(pod, self._backend.rank(pod))
            for pod in found
            if self._backend.owns(self._job, pod)
        ]
        self._present = {pod.rank for pod in pods}
        for pod in self._history.update(pods):
            failed = pod.has_failed or pod.disruption
            cause = pod_cause(pod).summary if failed else "it was deleted"
            RESTARTS.labels(self._task).inc()
            fields = event("pod_restarted", job=self._name, pod=pod.name, cause=cause)
            logger.info("%s: pod %s was restarted: %s", self._name, pod.name, cause, extra=fields)
        return True

    def _follow_log(self, *, at_end: bool) -> None:
        first = next((pod for pod in self._history.pods if pod.rank == 0), None)
        if first is None or not (first.is_running or first.exit_code is not None):
            return
        container = first.container or self._backend.container
        try:
            self._log.poll(first.name, first.uid, container, at_end=at_end)
        except NotFoundError:
            return  # The pod was just deleted, or its container has not started yet.
        except ClusterError as error:
            self._warn_once(str(error))

    def _report(self, state: JobState) -> None:
        """Update the metrics, and log the job's state if it has changed."""
        running = sum(pod.is_running for pod in self._history.pods)
        record_job_state(self._task, state.value, [one.value for one in JobState])
        PODS_WANTED.labels(self._task).set(self._nodes)
        PODS_RUNNING.labels(self._task).set(running)
        # Export 0 before the first restart: a rate does not see a series appear with 1.
        RESTARTS.labels(self._task)
        text = f"{self._name}: {state.value}"
        if state is JobState.QUEUED:
            text += f" in {self._settings.queue}" if self._settings.queue else " (suspended)"
        elif not state.is_end:
            text += f", {running} of {self._nodes} pods running"
            text += "".join(f"; {reason}" for reason in self._blocking_reasons())
        if text != self._last_text:
            self._last_text = text
            logger.info("%s", text, extra=event("job_state", job=self._name, state=state.value))

    def _check_progress(self, state: JobState) -> None:
        """Give up on a job that takes too long, cannot start, or restarts too often."""
        now = self._api.clock.monotonic()
        self._progress.update(state, self._history.pods, self._present, now)
        if self._failure is None:
            # Built before the job is deleted, which removes the pods and logs that explain it, and
            # kept because the deletion may take several polls.
            self._failure = self._progress.failure(
                self._history, self._explain_missing(), self._blocking_reasons(), self._error
            )
            self._failed_at = now
        if self._failure is not None:
            self._give_up(self._failure, now)

    def _explain_missing(self) -> list[str]:
        """Return the warnings that explain missing pods, and log them."""
        if not self._progress.missing_for_long:
            return []
        # A job without them is given up: a read that failed must not look like it.
        warnings = read_warnings(self._api, self._backend, self._job, retry=True)
        present = len(self._present or ())
        lacks = f"lacks {self._nodes - present} of {self._nodes} pods" if present else "has no pods"
        controller = self._backend.resource.installed_by
        unknown = f"no event explains it; {controller} may not be running"
        for reason in warnings or [unknown]:
            fields = event("job_without_pods", job=self._name)
            self._warn_once(f"{self._name} {lacks}: {reason}", fields)
        return warnings

    def _give_up(self, failure: ClusterError, now: float) -> None:
        """Delete the job and raise the failure."""
        try:
            self._api.delete(self._backend.resource, self._name, uid=self._uid, retry=False)
        except ClusterUnavailableError as error:
            if now - self._failed_at < self._api.policy.budget_seconds:
                self._warn_once(str(error))
                return
        except ClusterError as error:
            logger.warning("cannot delete %s: %s", self._name, error)
        raise failure

    def _end_error(self, status: JobStatus) -> ClusterError:
        if status.deadline_exceeded:
            return deadline_error(self._name, self._settings.deadline_seconds)
        return self._error(status.message)

    def _error(self, message: str) -> ClusterError:
        # The operator deletes a failed pod at once: if that happened between two polls, only its
        # event has the exit status.
        found = read_events(self._api, self._backend, self._job)
        exits = [self._backend.read_exit(one) for one in found]
        self._history.add_exits([one for one in exits if one], self._backend.container)
        evidence = self._history.evidence
        pod = first_failure(evidence)
        log = ""
        if pod is not None and pod.rank == 0:
            log = self._log.last_lines
        elif pod is not None and pod.container:
            log = tail(self._api, pod.name, pod.container)
        warnings = read_warnings(self._api, self._backend, self._job)
        return job_error(
            self._name, self._backend.resource, message, evidence, log=log, events=warnings
        )

    def _blocking_reasons(self) -> list[str]:
        return sorted({blocking_reason(pod) for pod in self._history.pods} - {""})

    def _seconds_active(self, job: Json) -> float:
        """Return for how long an adopted job has been active."""
        started = self._backend.status(job).started_at
        if not started:
            return 0.0
        seconds = self._api.clock.wall() - datetime.fromisoformat(started).timestamp()
        return max(seconds, 0.0)

    def _keep_warm(self) -> None:
        now = self._api.clock.monotonic()
        if now - self._warm_at >= _WARM_SECONDS:
            self._warm_at = now
            self._canceller.keep_warm()

    def _warn_once(self, text: str, extra: dict[str, object] | None = None) -> None:
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text, extra=extra)


def log_line(line: str) -> None:
    """Log a line of the first pod's log, and record its metrics."""
    output.info("%s", line, extra=event(JOB_OUTPUT))
    record_line(line)
