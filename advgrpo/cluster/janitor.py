"""Delete jobs whose Workflow has ended: a launcher that is stopped may not live to do it."""

import logging
from dataclasses import dataclass, field

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_errors import NotFoundError
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.pod_template import MANAGED_BY, WORKFLOW
from advgrpo.cluster.resources import WORKFLOWS
from advgrpo.cluster.workflow_owner import Origin, origin_of
from advgrpo.errors import ClusterError
from advgrpo.telemetry.logging import event
from advgrpo.telemetry.prometheus import push_cleaning

_ENDED = {"Succeeded", "Failed", "Error"}
_SELECTOR = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())

logger = logging.getLogger(__name__)


@dataclass
class Cleaning:
    """What the janitor found and did."""

    namespace: str
    dry_run: bool
    jobs: int = 0
    """Jobs of ours."""

    kept: int = 0
    """Jobs whose Workflow goes on."""

    without_workflow: int = 0
    """Jobs that no Workflow started, which are whoever's started them."""

    deleted: list[str] = field(default_factory=list)
    """Jobs that were deleted, or would be."""

    failed: list[str] = field(default_factory=list)
    """Jobs that could not be deleted."""


def clean(api: Api, *, dry_run: bool = False) -> Cleaning:
    """Delete the jobs of ours in a namespace whose Workflow has ended or is gone.

    Args:
        api: Reaches the API server.
        dry_run: Only say which ones.

    Raises:
        ClusterError: If jobs or Workflows cannot be read. Nothing is deleted then.
    """
    # A Workflow that cannot be read is not one that is gone.
    api.list(WORKFLOWS, limit="1")
    resource = PyTorchJobs.resource
    done = Cleaning(api.namespace, dry_run)
    for job in api.list(resource, labelSelector=_SELECTOR):
        name, uid = job["metadata"]["name"], job["metadata"]["uid"]
        done.jobs += 1
        origin = _origin(job)
        if origin is None:
            done.without_workflow += 1
            continue
        why = _why_over(api, origin)
        if not why:
            done.kept += 1
            continue
        if not dry_run:
            try:
                api.delete(resource, name, uid=uid)
            except ClusterError as error:
                logger.warning(
                    "the job %s stays: %s", name, error, extra=event("job_stays", job=name)
                )
                done.failed.append(name)
                continue
        words = "would be deleted" if dry_run else "is deleted"
        note = event("job_deleted", job=name, reason=why, dry_run=dry_run)
        logger.info("the job %s %s: %s", name, words, why, extra=note)
        done.deleted.append(name)
    push_cleaning(
        done.namespace,
        jobs=done.jobs,
        kept=done.kept,
        deleted=len(done.deleted),
        failed=len(done.failed),
    )
    return done


def _origin(job: Json) -> Origin | None:
    owner = origin_of(job)
    if owner is not None:
        return owner
    name = (job["metadata"].get("labels") or {}).get(WORKFLOW)
    return Origin("", name, "") if name else None


def _why_over(api: Api, origin: Origin) -> str:
    """Say why a Workflow is over; empty if it goes on."""
    try:
        workflow = api.get(WORKFLOWS, origin.name)
    except NotFoundError:
        return f"its Workflow {origin.name} is gone"
    if origin.uid and workflow["metadata"]["uid"] != origin.uid:
        return f"its Workflow {origin.name} was replaced by another one"
    phase = (workflow.get("status") or {}).get("phase", "")
    return f"its Workflow {origin.name} has ended ({phase})" if phase in _ENDED else ""
