"""All that the launcher and the janitor ask of the API server, as the rules of their roles.

The chart's roles grant this and no more; tests hold both against what is called.
"""

from typing import Final, TypedDict


class Rule(TypedDict):
    """A rule of a role, as Kubernetes writes it."""

    apiGroups: list[str]
    resources: list[str]
    verbs: list[str]


LAUNCHER_RULES: Final[tuple[Rule, ...]] = (
    {
        "apiGroups": ["kubeflow.org"],
        "resources": ["pytorchjobs"],
        "verbs": ["create", "delete", "get", "patch"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
)
"""Of the service account of a pipeline's tasks, in the namespace where they run."""

JANITOR_RULES: Final[tuple[Rule, ...]] = (
    {"apiGroups": ["kubeflow.org"], "resources": ["pytorchjobs"], "verbs": ["delete", "list"]},
    {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["get", "list"]},
)
"""Of the janitor's service account, in the namespace that it cleans."""
