"""Deletion of running jobs whose Workflow has ended.

A launcher that is stopped may be killed before it can delete its job. Jobs that have ended hold no
resources; they and their pods stay for `cluster.ttlSecondsAfterFinished`, to explain failures.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_errors import UnknownResourceError
from advgrpo.cluster.backends.base import JobBackend, JobStatus
from advgrpo.cluster.backends.registry import BACKENDS
from advgrpo.cluster.backends.trainjob import TTL
from advgrpo.cluster.pod_template import MANAGED_BY, WORKFLOW
from advgrpo.cluster.resources import WORKFLOWS, Resource
from advgrpo.cluster.workflow_owner import WorkflowOwner, owner_of, reason_of_end
from advgrpo.errors import ClusterError
from advgrpo.telemetry.logging import event
from advgrpo.telemetry.prometheus import push_janitor_metrics

_SELECTOR = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())

logger = logging.getLogger(__name__)


@dataclass
class Cleaning:
    """Result of the janitor's run."""

    namespace: str
    dry_run: bool
    jobs: int = 0
    """Jobs that advgrpo created."""

    kept: int = 0
    """Jobs whose Workflow has not ended."""

    ended: int = 0
    """Jobs that have ended or are being deleted."""

    without_workflow: int = 0
    """Jobs that were started outside of a pipeline; they are not deleted."""

    deleted: list[str] = field(default_factory=list)
    """Jobs that were deleted, or would be in a dry run."""

    failed: list[str] = field(default_factory=list)
    """Jobs that could not be deleted."""


def clean(api: Api, *, dry_run: bool = False) -> Cleaning:
    """Delete advgrpo's running jobs in a namespace whose Workflow has ended or was deleted.

    Args:
        api: Client of the API server.
        dry_run: Only log which jobs would be deleted.

    Raises:
        ClusterError: If jobs or Workflows cannot be read. Nothing is deleted then.
    """
    # A missing permission or kind must not be taken for a Workflow that was deleted.
    api.list(WORKFLOWS, limit="1")
    done = Cleaning(api.namespace, dry_run)
    # All jobs are listed before the first one is deleted: an error must not stop halfway.
    for backend, job in list(_jobs(api)):
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        done.jobs += 1
        if job["metadata"].get("deletionTimestamp"):
            done.ended += 1
            continue
        status = backend.status(job)
        owner = _owner(job)
        if status.state.is_end:
            reason = _expired(job, status, api.clock.wall())
            done.ended += not reason
        elif owner is None:
            reason = ""
            done.without_workflow += 1
        else:
            reason = reason_of_end(api, owner)
            done.kept += not reason
        if not reason:
            continue
        if not dry_run:
            try:
                # With the uid, because a retry may have recreated the job since it was listed.
                api.delete(backend.resource, name, uid=uid)
            except ClusterError as error:
                # One job that cannot be deleted must not keep the others running.
                logger.warning(
                    "cannot delete the job %s: %s",
                    name,
                    error,
                    extra=event("job_not_deleted", job=name),
                )
                done.failed.append(name)
                continue
        action = "would be deleted" if dry_run else "is deleted"
        fields = event("job_deleted", job=name, reason=reason, dry_run=dry_run)
        logger.info("the job %s %s: %s", name, action, reason, extra=fields)
        done.deleted.append(name)
    push_janitor_metrics(
        done.namespace,
        jobs=done.jobs,
        kept=done.kept,
        deleted=len(done.deleted),
        failed=len(done.failed),
    )
    return done


def _jobs(api: Api) -> Iterator[tuple[JobBackend, Json]]:
    """List the jobs of all backends: those of an earlier `cluster.backend` may still run."""
    unknown: list[Resource] = []
    for backend in BACKENDS.values():
        try:
            for job in api.list(backend.resource, labelSelector=_SELECTOR):
                yield backend, job
        except UnknownResourceError:
            # A backend that is not in use need not be installed.
            unknown.append(backend.resource)
    if len(unknown) == len(BACKENDS):
        raise UnknownResourceError(
            f"the cluster does not know {' or '.join(map(str, unknown))}",
            repair="install " + " or ".join(one.installed_by for one in unknown),
        )


def _expired(job: Json, status: JobStatus, now: float) -> str:
    """Return why a finished job is deleted, if its kind leaves that to the janitor; else empty."""
    seconds = (job["metadata"].get("annotations") or {}).get(TTL)
    if seconds is None or not status.ended_at:
        return ""
    age = now - datetime.fromisoformat(status.ended_at).timestamp()
    return f"it ended {age:.0f} s ago" if age > float(seconds) else ""


def _owner(job: Json) -> WorkflowOwner | None:
    owner = owner_of(job)
    if owner is not None:
        return owner
    # The label outlives an owner reference that was removed.
    name = (job["metadata"].get("labels") or {}).get(WORKFLOW)
    return WorkflowOwner("", name, "") if name else None
