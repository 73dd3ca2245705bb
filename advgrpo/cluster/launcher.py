"""Launcher of a task as a job of the cluster: create or adopt the job, and wait for its end."""

import hashlib
import json
import logging
import uuid
from contextlib import closing
from itertools import count

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_errors import AlreadyExistsError, NotFoundError
from advgrpo.cluster.backends.base import JobBackend, JobState
from advgrpo.cluster.backends.registry import select_backend
from advgrpo.cluster.cancellation import CancelOnSignal
from advgrpo.cluster.connection import connect
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.monitoring.job_monitor import JobMonitor, log_line
from advgrpo.cluster.monitoring.pod_logs import LogFollower
from advgrpo.cluster.pod_template import MANAGED_BY, WORKFLOW
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.cluster.workflow_owner import WorkflowOwner, find_owner, owner_of, reason_of_end
from advgrpo.errors import (
    ClusterError,
    ClusterUnavailableError,
    JobConflictError,
    JobRetryableError,
)
from advgrpo.telemetry.logging import event, machine_event
from advgrpo.telemetry.prometheus import LAUNCHER, serve_metrics

__all__ = ["ATTEMPT", "SPEC_HASH", "JobRequest", "Launcher", "run_job"]

SPEC_HASH = "advgrpo/spec-hash"
"""Annotation with the digest of the job's spec: only a job with an equal spec is adopted."""

ATTEMPT = "advgrpo/attempt"
"""Annotation with the id of the launcher that created the job."""

_DELETION_SECONDS = 900.0
"""How long the deletion of a job may take, in which its pods save their state."""

_MAX_CREATIONS = 20

_FIRST_RETRY_SECONDS, _MAX_RETRY_SECONDS = 15.0, 600.0
"""Pauses before the first and the last retries; each is twice the one before."""

logger = logging.getLogger(__name__)


def run_job(request: JobRequest, settings: ClusterSettings) -> None:
    """Run a task as a job, and return once it has succeeded.

    An existing job of the same name and spec is adopted, so a retry does not start a second job.

    Args:
        request: The task to run.
        settings: Settings of the cluster.

    Raises:
        ConfigError: If the settings do not fit the request.
        JobConflictError: If another job has the name.
        JobFailedError: If the job failed and would fail again.
        JobRetryableError: If it was preempted, evicted, lost or deleted, after the last retry.
        JobDeadlineError: If it took too long to start or to end.
        ClusterUnavailableError: If the API server does not answer for too long; the job continues.
        ClusterError: If the cluster refuses a request.
        Preempted: If this process received a signal to stop; the job is deleted, unless the pod was
            evicted and the run continues.
    """
    with closing(connect()) as api, serve_metrics(LAUNCHER):
        Launcher(request, settings, api, select_backend(settings, api)).run()


class Launcher:
    """The launcher of one task as a job.

    Args:
        request: The task to run.
        settings: Settings of the cluster.
        api: Client of the API server.
        backend: The kind of job.
    """

    def __init__(
        self, request: JobRequest, settings: ClusterSettings, api: Api, backend: JobBackend
    ) -> None:
        self._request = request
        self._settings = settings
        self._api = api
        self._backend = backend
        self._attempt = ""
        self._log = LogFollower(api, log_line)
        self._owner: WorkflowOwner | None = None
        self._exhausted = False

    def run(self) -> None:
        """Create or adopt the job, and wait for its end; retry as the settings say. See `run_job`.

        Kubeflow Pipelines retries a lost container, but by default not one that fails.
        """
        self._owner = find_owner(self._api)
        # Before the signal handlers: invalid settings need no job to delete.
        self._manifest()
        name, settings = self._request.name, self._settings
        start = self._api.clock.monotonic()
        delay = _FIRST_RETRY_SECONDS
        with CancelOnSignal(self._api, self._backend.resource, name, self._owner) as canceller:
            # Opens the connection over which a signal will delete the job.
            canceller.keep_warm()
            for retry in count(1):
                try:
                    self._run_once(canceller)
                except (JobRetryableError, ClusterUnavailableError) as error:
                    elapsed = self._api.clock.monotonic() - start
                    late = retry > settings.max_retries or elapsed > settings.deadline_seconds
                    if late or self._exhausted or self._is_cancelled():
                        raise
                    logger.warning(
                        "%s; retry %d of %d in %.0f s",
                        error.message, retry, settings.max_retries, delay,
                        extra=event("job_retried", job=name),
                    )  # fmt: skip
                else:
                    return
                self._api.clock.sleep(delay)
                delay = min(2 * delay, _MAX_RETRY_SECONDS)

    def _is_cancelled(self) -> bool:
        """Return whether the Workflow has ended, whose end may have deleted the job."""
        try:
            return bool(self._owner and reason_of_end(self._api, self._owner, retry=False))
        except ClusterError:
            return False

    def _run_once(self, canceller: CancelOnSignal) -> None:
        # Of this attempt alone: a job that an earlier one created and that failed is replaced.
        self._attempt = uuid.uuid4().hex
        # Until the uid is known, a signal deletes any job of the name: the request that creates
        # ours may be in flight.
        canceller.uid = ""
        job = self._start(self._manifest())
        canceller.uid = job["metadata"]["uid"]
        monitor = JobMonitor(
            job, self._request, self._settings, self._api, self._backend, canceller, self._log
        )
        try:
            monitor.wait()
        except ClusterError as error:
            lost = isinstance(error, JobRetryableError | ClusterUnavailableError)
            fields = machine_event("job_lost" if lost else "job_failed", job=self._request.name)
            self._exhausted = monitor.exhausted
            logger.error("%s", error.message, extra=fields)
            raise

    def _manifest(self) -> Json:
        manifest = self._backend.manifest(self._request, self._settings)
        meta = manifest["metadata"]
        meta["namespace"] = self._api.namespace
        # Only of the spec: owner and attempt differ between the attempts that shall adopt the job.
        meta.setdefault("annotations", {}).update(
            {SPEC_HASH: _digest(manifest["spec"]), ATTEMPT: self._attempt}
        )
        if self._owner is not None:
            meta["ownerReferences"] = [self._owner.reference()]
            meta["labels"][WORKFLOW] = self._owner.name
        return manifest

    def _start(self, manifest: Json) -> Json:
        """Create the job, or adopt an existing one."""
        resource, name = self._backend.resource, self._request.name
        for _ in range(_MAX_CREATIONS):
            try:
                # Creating is atomic. Two launchers that read first could both find nothing.
                job = self._api.create(resource, manifest)
            except AlreadyExistsError:
                try:
                    adopted = self._adopt(self._api.get(resource, name), manifest)
                except NotFoundError:
                    # It was deleted between the two requests.
                    adopted = None
                if adopted is not None:
                    return adopted
            else:
                namespace = self._api.namespace
                fields = event("job_created", job=name, namespace=namespace)
                logger.info("created the job %s in %s", name, namespace, extra=fields)
                return job
        raise JobRetryableError(
            f"the job {name} could not be created: each time another one had its name",
            repair=f"see what creates and deletes it: kubectl get {resource} {name} --watch",
        )

    def _adopt(self, job: Json, manifest: Json) -> Json | None:
        """Return an existing job if it can be adopted; None after it was deleted."""
        name, meta = self._request.name, job["metadata"]
        annotations = meta.get("annotations") or {}
        # The name has a digest, but anyone may create a job of that name.
        if not MANAGED_BY.items() <= (meta.get("labels") or {}).items():
            raise self._conflict("it was not created by advgrpo")
        if meta.get("deletionTimestamp"):
            logger.info("waiting for the deletion of an earlier job %s", name)
            self._wait_for_deletion(meta["uid"])
            return None
        if annotations.get(ATTEMPT) == self._attempt:
            # This launcher created it, but the answer was lost.
            return job
        state = self._backend.status(job).state
        # Before the spec is compared: no result depends on the settings of the cluster.
        if state is JobState.SUCCEEDED:
            return job
        # A failed job cannot be started again; its name must be free first.
        if state is JobState.FAILED:
            fields = event("job_retried", job=name)
            logger.info("an earlier attempt at %s failed; retrying", name, extra=fields)
            self._api.delete(self._backend.resource, name, uid=meta["uid"])
            self._wait_for_deletion(meta["uid"])
            return None
        # The digest is of the spec as it was sent; the one on the server has defaults filled in.
        if annotations.get(SPEC_HASH) != manifest["metadata"]["annotations"][SPEC_HASH]:
            raise self._conflict("it runs with other settings of the cluster")
        logger.info("adopting the job %s", name, extra=event("job_adopted", job=name))
        return self._with_owner(job, manifest)

    def _with_owner(self, job: Json, manifest: Json) -> Json:
        """Make this pod's Workflow the owner, or the job would be deleted with an earlier one."""
        owners = manifest["metadata"].get("ownerReferences")
        if not owners or owner_of(job) == owner_of(manifest):
            return job
        labels = {WORKFLOW: manifest["metadata"]["labels"][WORKFLOW]}
        change = {"metadata": {"ownerReferences": owners, "labels": labels}}
        return self._api.patch(self._backend.resource, self._request.name, change)

    def _wait_for_deletion(self, uid: str) -> None:
        start = self._api.clock.monotonic()
        while self._api.clock.monotonic() - start < _DELETION_SECONDS:
            try:
                # A foreground deletion frees the name only once the pods are gone, so the next job
                # cannot run next to them.
                job = self._api.get(self._backend.resource, self._request.name)
            except NotFoundError:
                return
            if job["metadata"]["uid"] != uid:
                return
            self._api.clock.sleep(self._settings.poll_seconds)
        name = self._request.name
        raise JobRetryableError(
            f"an earlier job {name} is still being deleted",
            repair="look for its finalizers and for pods that do not end: kubectl get "
            f"{self._backend.resource} {name} --output yaml; kubectl get pods",
        )

    def _conflict(self, reason: str) -> JobConflictError:
        name = self._request.name
        return JobConflictError(
            f"the namespace {self._api.namespace} has a job {name}, and {reason}",
            repair=f"wait for its end, or delete it: kubectl delete {self._backend.resource} "
            f"{name}",
        )


def _digest(spec: Json) -> str:
    # Sorted, because the order of the client's fields may change with its version.
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
