"""The Workflow of a pipeline's run, which owns the jobs that its tasks start."""

import logging
import os
from dataclasses import dataclass

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_errors import NotFoundError
from advgrpo.cluster.resources import PODS, WORKFLOWS
from advgrpo.errors import ClusterError

# KFP's variable first: Kubernetes cuts the host name, but not the pod's name, at 63 characters.
_POD_VARIABLES = ("KFP_POD_NAME", "HOSTNAME")
_KIND = "Workflow"
_ENDED = {"Succeeded", "Failed", "Error"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkflowOwner:
    """The Workflow that owns a job."""

    api_version: str
    name: str
    uid: str

    def reference(self) -> Json:
        """Return the owner reference: Kubernetes deletes the job when the Workflow is deleted."""
        return {
            "apiVersion": self.api_version,
            "kind": _KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": False,
            # True would need permission to update the Workflow's finalizers.
            "blockOwnerDeletion": False,
        }


def find_owner(api: Api) -> WorkflowOwner | None:
    """Return the Workflow of the pod that this process runs in; None outside of one.

    The pod itself cannot own the job: a retry of the task runs in another pod.

    Raises:
        ClusterUnavailableError: If the API server does not answer.
    """
    name = next((os.environ[each] for each in _POD_VARIABLES if os.environ.get(each)), "")
    try:
        pod = api.get(PODS, name) if name else {}
    except ClusterError as error:
        # On a laptop HOSTNAME is not a pod; only an error that a retry may fix is one.
        if error.exit_code >= 128:
            raise
        logger.info("the job will not belong to a Workflow: %s", error.message)
        return None
    owner = owner_of(pod)
    if owner is None:
        logger.info("the job will not belong to a Workflow: this is not a pipeline's pod")
    return owner


def owner_of(owned: Json) -> WorkflowOwner | None:
    """Return the Workflow that owns an object, if any."""
    for owner in (owned.get("metadata") or {}).get("ownerReferences") or ():
        if owner["kind"] == _KIND:
            return WorkflowOwner(owner["apiVersion"], owner["name"], owner["uid"])
    return None


def reason_of_end(api: Api, owner: WorkflowOwner, *, retry: bool = True) -> str:
    """Return why a Workflow does not continue; empty if it does.

    Args:
        api: Client of the API server.
        owner: The Workflow; without a uid, any of its name is meant.
        retry: Whether to retry while the server does not answer.

    Raises:
        ClusterError: If the Workflow cannot be read.
    """
    try:
        workflow = api.get(WORKFLOWS, owner.name, retry=retry)
    except NotFoundError:
        return f"its Workflow {owner.name} was deleted"
    meta, spec = workflow["metadata"], workflow.get("spec") or {}
    if owner.uid and meta["uid"] != owner.uid:
        return f"its Workflow {owner.name} was replaced by another one"
    if meta.get("deletionTimestamp"):
        return f"its Workflow {owner.name} is being deleted"
    # Argo's own ways to stop a Workflow, and that of Kubeflow Pipelines.
    if spec.get("shutdown") or spec.get("activeDeadlineSeconds") == 0:
        return f"its Workflow {owner.name} was cancelled"
    # Argo sets the status after it has seen the Workflow: without one it has not ended.
    phase = (workflow.get("status") or {}).get("phase", "")
    return f"its Workflow {owner.name} has ended ({phase})" if phase in _ENDED else ""
