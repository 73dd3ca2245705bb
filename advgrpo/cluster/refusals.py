"""Repairs of pods that the API server refuses, when jobs create them and in dry runs."""

import re
from collections.abc import Mapping

from kubernetes.utils.quantity import parse_quantity

_RESTRICTED = "violates PodSecurity"
_REPAIRS = {
    "IPC_LOCK": "set cluster.rdma.ipcLock=false in the chart's values, or use a namespace that "
    "enforces a less strict Pod Security level",
    _RESTRICTED: "change the value under `cluster` that the message names, or use a namespace with "
    "a less strict Pod Security level (label pod-security.kubernetes.io/enforce)",
    "security context constraint": "set cluster.runAsUser=null in the chart's values, so that "
    "the platform assigns the user",
    "per Container is": "change the namespace's LimitRange, or cluster.node in the chart's values",
    "PriorityClass": "create the priority class, or change cluster.priorityClass in the chart's "
    "values",
    # Not "failed calling webhook", which only means that the webhook did not answer.
    "denied the request": "change the value under `cluster` that the admission webhook refuses, or "
    "its policy",
    'no matches for kind "JobSet"': "install JobSet, which Kubeflow Trainer needs",
}
"""Repair of a refusal, by a part of its message; the first one counts."""

_QUOTA = re.compile(r"requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_ACCOUNT = re.compile(r'serviceaccount "(?P<name>[^"]+)" not found')


def refusal_repair(message: str, special: Mapping[str, str]) -> str:
    """Return the repair of a refusal that remains until somebody changes something; else "".

    Args:
        message: Message of the API server or of an event.
        special: Repairs of what a backend's controller adds to pods, by a text of the message.
    """
    if exceeded := _beyond_quota(message):
        return (
            f"raise the ResourceQuota for {', '.join(exceeded)} above what one pod requests, or "
            "lower cluster.gpusPerNode and cluster.node in the chart's values"
        )
    if match := _ACCOUNT.search(message):
        return f"create the service account {match['name']}: upgrade the chart's release"
    added = special if _RESTRICTED in message else {}
    return next((repair for text, repair in {**added, **_REPAIRS}.items() if text in message), "")


def _beyond_quota(message: str) -> list[str]:
    """Return the resources of which one pod requests more than the whole quota."""
    match = _QUOTA.search(message)
    if match is None:
        return []
    requested, limited = (
        dict(part.split("=", 1) for part in match[key].split(",") if "=" in part)
        for key in ("requested", "limited")
    )
    return [
        name
        for name, amount in requested.items()
        if name in limited and parse_quantity(amount) > parse_quantity(limited[name])
    ]
