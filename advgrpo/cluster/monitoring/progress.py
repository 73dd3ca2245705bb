"""Timers of a job, which tell a slow job from one that will not end."""

from collections.abc import Callable, Iterable

from advgrpo.cluster.backends.base import JobBackend, JobState
from advgrpo.cluster.job_request import Placement
from advgrpo.cluster.monitoring.diagnosis import deadline_error, stuck_cause
from advgrpo.cluster.monitoring.pod_history import PodHistory
from advgrpo.cluster.monitoring.pods import Pod
from advgrpo.cluster.refusals import refusal_repair
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import ClusterError, JobDeadlineError, JobFailedError, JobRetryableError

_STUCK_SECONDS = 120.0
"""How long a pod may fail to start for a reason that waiting does not remove."""

_MISSING_SECONDS = 30.0
"""How long pods may be missing before the events that explain it are read."""

_IDLE_SECONDS = 120.0
"""How long the controller may neglect a job: no pods, a pod that ended and is not replaced, or an
end that it does not report."""

_START_ERROR_RESTARTS = 2
"""Restarts of a pod whose container the runtime cannot start."""


class Progress:
    """The time that a job spends without progress, and the failure that follows from it.

    Args:
        name: Name of the job.
        backend: Its kind.
        placement: Its number of pods.
        settings: Settings of the cluster.
        now: Current time in seconds.
        active_seconds: How long the job has been active already.
    """

    def __init__(
        self,
        name: str,
        backend: JobBackend,
        placement: Placement,
        settings: ClusterSettings,
        now: float,
        active_seconds: float,
    ) -> None:
        self._name = name
        self._backend = backend
        self._nodes = placement.nodes
        self._settings = settings
        self._active_since = now - active_seconds
        self._waiting_since = self._stuck_since = self._updated_at = now
        self._stuck = False
        # These count only time in which the API server answers: during its outage the controller
        # cannot act either.
        self._missing_seconds = self._finished_seconds = 0.0
        self.exhausted = False
        """Whether the job failed although its pods were restarted as often as the settings say."""

        self._ended: dict[str, float] = {}
        """How long each pod that ended with an error has not been replaced, by its uid."""

    @property
    def missing_for_long(self) -> bool:
        """Whether pods have been missing for so long that events should explain it."""
        return self._missing_seconds > _MISSING_SECONDS

    def update(
        self, state: JobState, pods: list[Pod], present: set[int] | None, now: float
    ) -> None:
        """Advance the timers.

        Args:
            state: State of the job.
            pods: Latest pod of each rank.
            present: Ranks whose pods exist; None if they could not be listed.
            now: Current time in seconds.
        """
        elapsed = now - self._updated_at
        if state is JobState.QUEUED:
            self._active_since += elapsed
            self._waiting_since = now
            self._missing_seconds = 0.0
        if self._all_run(state, pods):
            self._waiting_since = now
        self._stuck = any(stuck_cause(pod) for pod in pods)
        if not self._stuck:
            self._stuck_since = now
        if present is not None and state is not JobState.QUEUED:
            seconds = min(elapsed, 2 * self._settings.poll_seconds)
            lacking = len(present) < self._nodes
            self._missing_seconds = self._missing_seconds + seconds if lacking else 0.0
            finished = _all_succeeded(pods, self._nodes)
            self._finished_seconds = self._finished_seconds + seconds if finished else 0.0
            self._ended = {
                pod.uid: self._ended[pod.uid] + seconds if pod.uid in self._ended else 0.0
                for pod in pods
                if pod.has_failed
            }
        self._updated_at = now

    def failure(
        self,
        history: PodHistory,
        warnings: list[str],
        reasons: Iterable[str],
        error: Callable[[str], ClusterError],
    ) -> ClusterError | None:
        """Return why the job will not succeed; None while it may.

        Args:
            history: Its pods.
            warnings: Events that explain why pods are missing.
            reasons: What keeps its pods from running.
            error: Makes a diagnosis from the pods, given a message.
        """
        settings, now = self._settings, self._updated_at
        if now - self._active_since > settings.deadline_seconds:
            return deadline_error(self._name, settings.deadline_seconds)
        # A failed pull may be the registry's temporary fault: the kubelet tries again.
        if self._stuck and now - self._stuck_since > _STUCK_SECONDS:
            return error("it cannot start")
        rank, restarts = history.most_restarted
        limit = settings.max_restarts
        if history.has_start_error(rank):
            limit = min(limit, _START_ERROR_RESTARTS)
        counts = not self._backend.limits_restarts or limit < settings.max_restarts
        if counts and restarts > limit:
            self.exhausted = True
            return error(f"the pod of rank {rank} was restarted {restarts} times")
        if max(self._ended.values(), default=0.0) >= _IDLE_SECONDS:
            return error("a pod ended and was not replaced")
        return self._refusal(warnings) or self._neglect(warnings) or self._late(warnings, reasons)

    def _refusal(self, warnings: list[str]) -> ClusterError | None:
        """Return the error for a pod that the cluster refuses to create."""
        if not self.missing_for_long:
            return None
        for warning in warnings:
            # Without a repair, waiting may help.
            if repair := refusal_repair(warning, self._backend.refusals):
                return JobFailedError(
                    f"a pod of the job {self._name} cannot be created: {warning}", repair=repair
                )
        return None

    def _neglect(self, warnings: list[str]) -> ClusterError | None:
        """Return the error for a job whose controller does nothing."""
        controller = self._backend.resource.installed_by
        repair = (
            f"check that {controller} runs and read its log: kubectl get deployments "
            "--all-namespaces; then run it again: it resumes from its last checkpoint"
        )
        if self._finished_seconds >= _IDLE_SECONDS:
            return JobRetryableError(
                f"all pods of the job {self._name} succeeded, but its status does not change: "
                f"{controller} may not be running",
                repair=repair,
            )
        # With a warning the controller runs: it may try again when a quota has room.
        if self._missing_seconds >= _IDLE_SECONDS and not warnings:
            return JobRetryableError(
                f"the job {self._name} lacks pods, and no event explains it: {controller} may not "
                "be running",
                repair=repair,
            )
        return None

    def _late(self, warnings: list[str], reasons: Iterable[str]) -> ClusterError | None:
        seconds = self._settings.startup_timeout_seconds
        if self._updated_at - self._waiting_since <= seconds:
            return None
        why = [*reasons] or warnings or ["Kubernetes gives no reason"]
        return JobDeadlineError(
            f"the pods of the job {self._name} did not all run within "
            f"cluster.startupTimeoutSeconds={seconds}: " + "; ".join(why),
            repair="compare cluster.gpuResource, cluster.node, cluster.nodeSelector and "
            "cluster.tolerations with the nodes: kubectl describe nodes",
        )

    def _all_run(self, state: JobState, pods: list[Pod]) -> bool:
        if not pods:  # They may not be listed, or do not exist yet.
            return state is JobState.RUNNING
        return sum(pod.is_running or pod.phase == "Succeeded" for pod in pods) >= self._nodes


def _all_succeeded(pods: list[Pod], nodes: int) -> bool:
    return len(pods) >= nodes and all(pod.phase == "Succeeded" for pod in pods)
