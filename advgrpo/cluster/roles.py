"""Kubernetes permissions of the launcher, the janitor and the doctor, as rules of RBAC roles.

The chart's roles grant exactly these; tests compare both with the requests that are sent.
"""

from collections.abc import Iterable
from typing import Final, TypedDict

from advgrpo.cluster.backends.base import JobBackend


class Rule(TypedDict):
    """A rule of a role, as Kubernetes writes it."""

    apiGroups: list[str]
    resources: list[str]
    verbs: list[str]


def launcher_rules(backend: JobBackend) -> tuple[Rule, ...]:
    """Return the rules for the service account of a pipeline's tasks, in their namespace."""
    return (
        # patch: a retry makes its own Workflow the owner of the job that it adopts.
        _job_rule(backend, ["create", "delete", "get", "patch"]),
        # get: the launcher reads its own pod to find the Workflow that owns it.
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
        # get: after a signal, the Workflow tells a cancelled run from a drained node.
        {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["get"]},
    )


def janitor_rules(backends: Iterable[JobBackend]) -> tuple[Rule, ...]:
    """Return the rules for the janitor's service account, in the namespace that it cleans."""
    return (
        *(_job_rule(backend, ["delete", "list"]) for backend in backends),
        # list: the janitor checks that Workflows are readable before it takes a 404 for a deletion.
        {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["get", "list"]},
    )


DOCTOR_RULES: Final[tuple[Rule, ...]] = (
    {
        "apiGroups": [""],
        "resources": ["configmaps", "serviceaccounts", "services"],
        "verbs": ["get"],
    },
    {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get"]},
    {"apiGroups": ["kueue.x-k8s.io"], "resources": ["localqueues"], "verbs": ["get"]},
    # For dry runs; no role can be restricted to them. An account that may create jobs can create
    # pods through them anyway.
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]},
)
"""Rules for `helm test`, besides the launcher's.

Secrets, nodes and the namespace are not among them: a check that may not read them is skipped, and
in a pod the environment has the Secrets' keys.
"""


def _job_rule(backend: JobBackend, verbs: list[str]) -> Rule:
    resource = backend.resource
    return {"apiGroups": [resource.group], "resources": [resource.plural], "verbs": verbs}
