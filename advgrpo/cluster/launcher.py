"""Run a task as a job of the cluster: create or find it, follow it, end as it ends."""

import hashlib
import json
import logging
import uuid
from contextlib import closing

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_connection import connect
from advgrpo.cluster.api_errors import AlreadyExistsError, NotFoundError
from advgrpo.cluster.backends.base import JobBackend, JobState
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.cancellation import Cancelling
from advgrpo.cluster.job_monitor import JobMonitor
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.pod_template import MANAGED_BY, WORKFLOW
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.cluster.workflow_owner import find_origin, origin_of
from advgrpo.errors import (
    ClusterError,
    ClusterUnavailableError,
    JobConflictError,
    JobRetryableError,
)
from advgrpo.telemetry.logging import event, machine_event
from advgrpo.telemetry.prometheus import LAUNCHER, exposed

__all__ = ["ATTEMPT", "SPEC_HASH", "JobRequest", "Launcher", "run_job"]

SPEC_HASH = "advgrpo/spec-hash"
"""Annotation: digest of the job's spec, so that a job is taken up only if it is the same."""

ATTEMPT = "advgrpo/attempt"
"""Annotation: the launcher that created the job."""

_GONE_SECONDS = 900.0
"""How long a deleted job may take to go; its pods save their state meanwhile."""

_CREATION_TRIES = 20

logger = logging.getLogger(__name__)


def run_job(work: JobRequest, settings: ClusterSettings) -> None:
    """Run work as a job, and return once it has succeeded.

    A job of the same name and spec is taken up: this work, tried again, is the same job.

    Args:
        work: What to run.
        settings: The cluster's.

    Raises:
        ConfigError: If the settings do not fit the work.
        JobConflictError: If another job has the name.
        JobFailedError: If the job failed and would fail again.
        JobRetryableError: If it was preempted, evicted, lost or deleted.
        JobDeadlineError: If it took too long to start, or to end.
        ClusterUnavailableError: If the API server does not answer for too long; the job goes on.
        ClusterError: If the cluster refuses something.
        Preempted: If this process was asked to stop; the job is deleted.
    """
    with closing(connect()) as api, exposed(LAUNCHER):
        Launcher(work, settings, api, PyTorchJobs()).run()


class Launcher:
    """One attempt to run work as a job.

    Args:
        work: What to run.
        settings: The cluster's.
        api: Reaches the API server.
        backend: The kind of job.
    """

    def __init__(
        self, work: JobRequest, settings: ClusterSettings, api: Api, backend: JobBackend
    ) -> None:
        self._work = work
        self._settings = settings
        self._api = api
        self._backend = backend
        self._attempt = uuid.uuid4().hex

    def run(self) -> None:
        """Create or find the job, and follow it to its end. See `run_job`."""
        manifest = self._manifest()
        with Cancelling(self._api, self._backend.resource, self._work.name) as cancelling:
            cancelling.keep_warm()
            job = self._start(manifest)
            cancelling.uid = job["metadata"]["uid"]
            following = JobMonitor(
                job, self._work, self._settings, self._api, self._backend, cancelling
            )
            try:
                following.to_end()
            except ClusterError as error:
                lost = isinstance(error, JobRetryableError | ClusterUnavailableError)
                note = machine_event("job_lost" if lost else "job_failed", job=self._work.name)
                logger.error("%s", error.message, extra=note)
                raise

    def _manifest(self) -> Json:
        manifest = self._backend.manifest(self._work, self._settings)
        meta = manifest["metadata"]
        meta["namespace"] = self._api.namespace
        meta["annotations"] = {SPEC_HASH: _digest(manifest["spec"]), ATTEMPT: self._attempt}
        origin = find_origin(self._api)
        if origin is not None:
            meta["ownerReferences"] = [origin.as_owner()]
            meta["labels"][WORKFLOW] = origin.name
        return manifest

    def _start(self, manifest: Json) -> Json:
        """Create the job, or find the one that can be taken up."""
        resource, name = self._backend.resource, self._work.name
        for _ in range(_CREATION_TRIES):
            try:
                job = self._api.create(resource, manifest)
            except AlreadyExistsError:
                try:
                    found = self._taken_up(self._api.get(resource, name), manifest)
                except NotFoundError:
                    # It went in this very moment.
                    found = None
                if found is not None:
                    return found
            else:
                namespace = self._api.namespace
                note = event("job_created", job=name, namespace=namespace)
                logger.info("the job %s is created in %s", name, namespace, extra=note)
                return job
        raise JobRetryableError(
            f"the job {name} could not be created: again and again another one had its name",
            repair=f"see what creates and deletes it: kubectl get {resource} {name}",
        )

    def _taken_up(self, job: Json, manifest: Json) -> Json | None:
        """Say whether a job of this name is ours to follow; None once it is out of the way."""
        name, meta = self._work.name, job["metadata"]
        annotations = meta.get("annotations") or {}
        ours = MANAGED_BY.items() <= (meta.get("labels") or {}).items()
        if not ours:
            raise self._conflict("it was not made by advgrpo")
        if meta.get("deletionTimestamp"):
            logger.info("an earlier job %s is being deleted; waiting", name)
            self._wait_until_gone(meta["uid"])
            return None
        if annotations.get(ATTEMPT) == self._attempt:
            # We created it, and the answer was lost.
            return job
        state = self._backend.state(job)
        if state is JobState.SUCCEEDED:
            return job
        if state is JobState.FAILED:
            note = event("job_tried_again", job=name)
            logger.info("an earlier attempt at %s failed; trying again", name, extra=note)
            self._api.delete(self._backend.resource, name, uid=meta["uid"])
            self._wait_until_gone(meta["uid"])
            return None
        if annotations.get(SPEC_HASH) != manifest["metadata"]["annotations"][SPEC_HASH]:
            raise self._conflict("it runs with other settings of the cluster")
        logger.info("taking up the job %s", name, extra=event("job_taken_up", job=name))
        return self._owned(job, manifest)

    def _owned(self, job: Json, manifest: Json) -> Json:
        """Let this pod's Workflow own the job: an earlier one may take it along when it goes."""
        wanted = manifest["metadata"].get("ownerReferences")
        if not wanted or origin_of(job) == origin_of(manifest):
            return job
        labels = {WORKFLOW: manifest["metadata"]["labels"][WORKFLOW]}
        change = {"metadata": {"ownerReferences": wanted, "labels": labels}}
        return self._api.patch(self._backend.resource, self._work.name, change)

    def _wait_until_gone(self, uid: str) -> None:
        start = self._api.clock.monotonic()
        while self._api.clock.monotonic() - start < _GONE_SECONDS:
            try:
                job = self._api.get(self._backend.resource, self._work.name)
            except NotFoundError:
                return
            if job["metadata"]["uid"] != uid:
                return
            self._api.clock.sleep(self._settings.poll_seconds)
        raise JobRetryableError(
            f"an earlier job {self._work.name} is still being deleted",
            repair="see what keeps it: kubectl get pods, and the job's finalizers",
        )

    def _conflict(self, why: str) -> JobConflictError:
        name = self._work.name
        return JobConflictError(
            f"the namespace {self._api.namespace} has a job {name}, and {why}",
            repair=f"wait for its end, or delete it: kubectl delete {self._backend.resource} "
            f"{name}",
        )


def _digest(spec: Json) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
