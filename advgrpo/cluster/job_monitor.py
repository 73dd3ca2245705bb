"""Follow a job to its end: its state, its pods, its first pod's log."""

import logging
from datetime import datetime

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_errors import NotFoundError
from advgrpo.cluster.backends.base import JobBackend, JobState
from advgrpo.cluster.cancellation import Cancelling
from advgrpo.cluster.diagnosis import blamed, job_error, pod_cause, stuck_cause
from advgrpo.cluster.job_request import JobRequest, shape_of
from advgrpo.cluster.pod_history import History, events_of
from advgrpo.cluster.pod_logs import LogFollower, tail
from advgrpo.cluster.pods import Pod, read_pod
from advgrpo.cluster.resources import PODS
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import (
    ClusterError,
    ClusterUnavailableError,
    JobDeadlineError,
    JobRetryableError,
)
from advgrpo.telemetry.logging import JOB_OUTPUT, event
from advgrpo.telemetry.prometheus import PODS_RUNNING, PODS_WANTED, RESTARTS, note_line, note_state

_STUCK_SECONDS = 120.0
"""How long a pod may be unable to start for a reason that waiting does not remove."""

_NO_PODS_SECONDS = 30.0
"""How long a job may have no pods before it is asked why."""

_WARM_SECONDS = 30.0
"""Time between two uses of the connection that is kept open for deleting."""

_EVENTS_QUOTED = 3

logger = logging.getLogger(__name__)
output = logging.getLogger("advgrpo.cluster.output")
"""Gets the lines of the first pod's log."""


class JobMonitor:
    """One job, followed to its end.

    Args:
        job: As it was created or found.
        work: What it runs.
        settings: The cluster's.
        api: Reaches the API server.
        backend: The kind of job.
        cancelling: Deletes it if this process is asked to stop.
    """

    def __init__(
        self,
        job: Json,
        work: JobRequest,
        settings: ClusterSettings,
        api: Api,
        backend: JobBackend,
        cancelling: Cancelling,
    ) -> None:
        self._name: str = job["metadata"]["name"]
        self._uid: str = job["metadata"]["uid"]
        self._task = work.task
        self._nodes = shape_of(work.processes, settings).nodes
        self._settings = settings
        self._api = api
        self._backend = backend
        self._cancelling = cancelling
        self._history = History()
        self._log = LogFollower(api, backend.first_pod(self._name), _tell)
        self._said = ""
        self._warned: set[str] = set()
        self._verdict: ClusterError | None = None
        self._verdict_at = 0.0
        now = api.clock.monotonic()
        self._active_since = now - self._seconds_before(job)
        self._waiting_since = self._stuck_since = self._last_look = self._warm_at = now

    def to_end(self) -> None:
        """Follow it.

        Raises:
            ClusterError: If it does not succeed, or the API server is lost.
        """
        while True:
            job = self._look()
            state = self._backend.state(job)
            if state is JobState.QUEUED:
                self._history.forget_pods()
            seen = self._see_pods(patient=state.is_end)
            # Whose log it is must be known, for a pod of the same name starts another one.
            if seen or state.is_end:
                self._follow_log(at_end=state.is_end)
            self._say(state)
            if state is JobState.SUCCEEDED:
                return
            if state is JobState.FAILED:
                raise self._error(self._backend.end_message(job))
            self._judge(state)
            self._keep_warm()
            self._api.clock.sleep(self._settings.poll_seconds)

    def _look(self) -> Json:
        try:
            job = self._api.get(self._backend.resource, self._name)
        except NotFoundError:
            raise self._verdict or JobRetryableError(
                f"the job {self._name} was deleted by somebody else before its end",
                repair="run it again; it goes on from its last checkpoint",
            ) from None
        if job["metadata"]["uid"] != self._uid:
            raise self._verdict or JobRetryableError(
                f"the job {self._name} was deleted and created again by somebody else",
                repair="run it again: it takes up the new one",
            )
        return job

    def _see_pods(self, *, patient: bool) -> bool:
        selector = self._backend.pod_selector(self._name)
        try:
            found = self._api.list(PODS, patient=patient, labelSelector=selector)
        except ClusterError as error:
            # How the job ends does not depend on what its pods tell.
            self._warn_once(error)
            return False
        pods = [read_pod(pod) for pod in found if _is_owned_by(pod, self._uid)]
        for pod in self._history.see(pods):
            cause = pod_cause(pod).what if pod.has_failed or pod.disruption else "it went away"
            RESTARTS.labels(self._task).inc()
            note = event("pod_restarted", job=self._name, pod=pod.name, cause=cause)
            logger.info("%s: pod %s was started again: %s", self._name, pod.name, cause, extra=note)
        return True

    def _follow_log(self, *, at_end: bool) -> None:
        first = self._first_pod()
        if first is None or not (first.is_running or first.exit_code is not None):
            return
        try:
            self._log.poll(first.uid, first.container or "pytorch", at_end=at_end)
        except NotFoundError:
            # The pod has just gone, or is about to start.
            return
        except ClusterError as error:
            self._warn_once(error)

    def _first_pod(self) -> Pod | None:
        first = self._backend.first_pod(self._name)
        return next((pod for pod in self._history.pods if pod.name == first), None)

    def _say(self, state: JobState) -> None:
        """Tell where the job stands when that has changed."""
        running = sum(pod.is_running for pod in self._history.pods)
        note_state(self._task, state.value, [one.value for one in JobState])
        PODS_WANTED.labels(self._task).set(self._nodes)
        PODS_RUNNING.labels(self._task).set(running)
        # There from the beginning on, for a rate misses the rise from nothing to one.
        RESTARTS.labels(self._task)
        words = f"{self._name}: {state.value}"
        if state is JobState.QUEUED:
            words += f" in {self._settings.queue}" if self._settings.queue else " (suspended)"
        elif not state.is_end:
            words += f", {running} of {self._nodes} pods run"
            why = {_blocking_reason(pod) for pod in self._history.pods} - {""}
            words += "".join(f"; {one}" for one in sorted(why))
        if words != self._said:
            self._said = words
            logger.info("%s", words, extra=event("job_state", job=self._name, state=state.value))

    def _judge(self, state: JobState) -> None:
        """Give the job up if it took too long, cannot start, or does nothing but start again."""
        now = self._api.clock.monotonic()
        if state is JobState.QUEUED:
            # Time in the queue does not count; all pods start anew after it.
            self._active_since += now - self._last_look
            self._waiting_since = now
        if self._all_run(state):
            self._waiting_since = now
        stuck = [pod for pod in self._history.pods if stuck_cause(pod) is not None]
        if not stuck:
            self._stuck_since = now
        self._last_look = now
        if self._verdict is None:
            self._verdict = self._find_failure(now, stuck)
            self._verdict_at = now
        if self._verdict is not None:
            self._give_up(self._verdict, now)

    def _all_run(self, state: JobState) -> bool:
        pods = self._history.pods
        if not pods:
            # They cannot be listed, or there are none yet.
            return state is JobState.RUNNING
        ready = [pod for pod in pods if pod.is_running or pod.phase == "Succeeded"]
        return len(ready) >= self._nodes

    def _find_failure(self, now: float, stuck: list[Pod]) -> ClusterError | None:
        settings = self._settings
        if now - self._active_since > settings.deadline_seconds:
            return JobDeadlineError(
                f"the job {self._name} ran longer than cluster.deadline_seconds="
                f"{settings.deadline_seconds}",
                repair="raise it, and run the job again; it goes on from its last checkpoint",
            )
        if stuck and now - self._stuck_since > _STUCK_SECONDS:
            return self._error("it cannot start")
        pod, restarts = self._history.most_restarted
        if restarts > settings.restarts:
            return self._error(f"{pod} was started again {restarts} times")
        waited = now - self._waiting_since
        if waited > settings.startup_timeout_seconds:
            return JobDeadlineError(
                f"the pods of the job {self._name} did not all run within "
                f"cluster.startup_timeout_seconds={settings.startup_timeout_seconds}: "
                f"{self._why_waiting()}",
                repair="check cluster.gpu_resource, cluster.node, cluster.node_selector and "
                "cluster.tolerations against the nodes that there are",
            )
        if waited > _NO_PODS_SECONDS and not self._history.pods:
            for reason in self._events():
                if reason not in self._warned:
                    self._warned.add(reason)
                    note = event("job_without_pods", job=self._name)
                    logger.warning("%s has no pods: %s", self._name, reason, extra=note)
        return None

    def _give_up(self, verdict: ClusterError, now: float) -> None:
        """Delete the job and raise the verdict; if the server does not answer, look again first.

        It may have ended well in the meantime.
        """
        try:
            self._api.delete(self._backend.resource, self._name, uid=self._uid, patient=False)
        except ClusterUnavailableError as error:
            if now - self._verdict_at < self._api.patience.budget_seconds:
                self._warn_once(error)
                return
        except ClusterError as error:
            logger.warning("%s stays: %s", self._name, error)
        raise verdict

    def _error(self, message: str) -> ClusterError:
        self._history.learn_ends(events_of(self._api, self._uid))
        evidence = self._history.evidence
        pod = blamed(evidence)
        log = ""
        if pod is not None and pod.name == self._backend.first_pod(self._name):
            log = self._log.last_lines
        elif pod is not None and pod.container:
            log = tail(self._api, pod.name, pod.container)
        return job_error(self._name, message, evidence, log=log, events=self._events())

    def _why_waiting(self) -> str:
        why = sorted({_blocking_reason(pod) for pod in self._history.pods} - {""})
        return "; ".join(why or self._events() or ["Kubernetes does not say why"])

    def _events(self) -> list[str]:
        found = events_of(self._api, self._uid)
        warnings = [one for one in found if one.get("type") == "Warning"]
        return [f"{one.get('reason')}: {one.get('message')}" for one in warnings][-_EVENTS_QUOTED:]

    def _seconds_before(self, job: Json) -> float:
        """Say how long a job that is taken up has been active."""
        started = self._backend.started_at(job)
        if not started:
            return 0.0
        seconds = self._api.clock.wall() - datetime.fromisoformat(started).timestamp()
        return max(seconds, 0.0)

    def _keep_warm(self) -> None:
        now = self._api.clock.monotonic()
        if now - self._warm_at >= _WARM_SECONDS:
            self._warm_at = now
            self._cancelling.keep_warm()

    def _warn_once(self, error: ClusterError) -> None:
        if error.message not in self._warned:
            self._warned.add(error.message)
            logger.warning("%s", error)


def _tell(line: str) -> None:
    output.info("%s", line, extra=event(JOB_OUTPUT))
    note_line(line)


def _blocking_reason(pod: Pod) -> str:
    """Say what keeps a pod from running; empty if nothing does."""
    stuck = stuck_cause(pod)
    if stuck is not None:
        return stuck.what
    return f"no node for {pod.name}: {pod.unschedulable}" if pod.unschedulable else ""


def _is_owned_by(pod: Json, uid: str) -> bool:
    return uid in {owner["uid"] for owner in pod["metadata"].get("ownerReferences") or ()}
