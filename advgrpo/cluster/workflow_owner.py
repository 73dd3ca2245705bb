"""Who starts a job: the pipeline's Workflow, which then owns it."""

import logging
import os
from dataclasses import dataclass

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.resources import PODS
from advgrpo.errors import ClusterError

_POD_VARIABLES = ("KFP_POD_NAME", "HOSTNAME")
_KIND = "Workflow"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """The Workflow that a job belongs to."""

    api_version: str
    name: str
    uid: str

    def as_owner(self) -> Json:
        """Write it as an owner reference: the job goes when the Workflow goes, and not before."""
        return {
            "apiVersion": self.api_version,
            "kind": _KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": False,
            "blockOwnerDeletion": False,
        }


def find_origin(api: Api) -> Origin | None:
    """Find the Workflow that this pod belongs to; None outside one.

    The Workflow and not this pod: a task that is tried again is another pod.

    Raises:
        ClusterUnavailableError: If the API server does not answer.
    """
    pod = next((os.environ[name] for name in _POD_VARIABLES if os.environ.get(name)), "")
    try:
        found = api.get(PODS, pod) if pod else None
    except ClusterError as error:
        if error.exit_code >= 128:
            raise
        logger.info("the job will belong to no Workflow: %s", error.message)
        return None
    origin = origin_of(found or {})
    if origin is None:
        logger.info("the job will belong to no Workflow: this is not a pipeline's pod")
    return origin


def origin_of(owned: Json) -> Origin | None:
    """Read the Workflow that owns an object, or None."""
    for owner in (owned.get("metadata") or {}).get("ownerReferences") or ():
        if owner["kind"] == _KIND:
            return Origin(owner["apiVersion"], owner["name"], owner["uid"])
    return None
