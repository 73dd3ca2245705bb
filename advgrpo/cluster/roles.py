"""Kubernetes permissions of the launcher, the janitor and the doctor, as rules of RBAC roles.

The chart's roles grant exactly these; tests compare both with the requests that are sent.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypedDict

from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.resources import Resource


class Rule(TypedDict):
    """A rule of a role, as Kubernetes writes it."""

    apiGroups: list[str]
    resources: list[str]
    verbs: list[str]


def launcher_rules(*backends: JobBackend) -> tuple[Rule, ...]:
    """Return the rules for the service account of a pipeline's tasks, in their namespace.

    Args:
        backends: The kinds of jobs that tasks may start.
    """
    return (
        # patch: a retry makes its own Workflow the owner of the job that it adopts.
        *_rules([each.resource for each in backends], ["create", "delete", "get", "patch"]),
        *_rules([one for each in backends for one in each.templates], ["get"]),
        # get: the launcher reads its own pod to find the Workflow that owns it.
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
        # get: a job would wait for ever in a queue that does not exist.
        {"apiGroups": ["kueue.x-k8s.io"], "resources": ["localqueues"], "verbs": ["get"]},
        # get: after a signal, the Workflow distinguishes a cancelled run from a drained node.
        {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["get"]},
    )


def janitor_rules(backends: Iterable[JobBackend]) -> tuple[Rule, ...]:
    """Return the rules for the janitor's service account, in the namespace that it cleans."""
    return (
        *_rules([backend.resource for backend in backends], ["delete", "list"]),
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
    # For dry runs; no role can be restricted to them. An account that may create jobs can create
    # pods through them anyway.
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]},
)
"""Rules for `helm test`, besides the launcher's.

Secrets, nodes and the namespace are not among them: a check that may not read them is skipped, and
in a pod the environment has the Secrets' keys.
"""


def _rules(resources: Iterable[Resource], verbs: list[str]) -> Iterator[Rule]:
    for one in resources:
        yield {"apiGroups": [one.group], "resources": [one.plural], "verbs": verbs}
