"""Refused pods: causes that remain until somebody changes the cluster or the settings."""

import re
from collections.abc import Mapping

from kubernetes.utils.quantity import parse_quantity

from advgrpo.cluster.monitoring.diagnosis import Cause

_RESTRICTED = "violates PodSecurity"
_REPAIRS = {
    _RESTRICTED: "change the value under `cluster` that the message names, for instance set "
    "cluster.rdma.ipc_lock=false, or use a namespace with a lower Pod Security level (label "
    "pod-security.kubernetes.io/enforce)",
    # Not "failed calling webhook", which only means that the webhook did not answer.
    "denied the request": "change the value under `cluster` that the admission webhook refuses, or "
    "its policy",
    'no matches for kind "JobSet"': "install JobSet, which Kubeflow Trainer needs",
}
"""Repair of a refusal, by a part of its message."""

_QUOTA = re.compile(r"requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)")
_ACCOUNT = re.compile(r'serviceaccount "(?P<name>[^"]+)" not found')


def refusal_cause(warning: str, special: Mapping[str, str]) -> Cause | None:
    """Return why a pod is refused, if waiting will not change it; else None.

    Args:
        warning: Reason and message of an event.
        special: Repairs by a text in the warning, from the job's backend.
    """
    repair = next(
        (each for text, each in special.items() if text in warning and _RESTRICTED in warning), ""
    ) or next((each for text, each in _REPAIRS.items() if text in warning), "")
    if match := _ACCOUNT.search(warning):
        repair = f"create the service account {match['name']}: upgrade the chart's release"
    if exceeded := _beyond_quota(warning):
        repair = (
            f"raise the ResourceQuota for {', '.join(exceeded)} above what one pod requests, or "
            "lower cluster.gpus_per_node and cluster.node in the chart's values"
        )
    return Cause(warning, repair, retryable=False) if repair else None


def _beyond_quota(warning: str) -> list[str]:
    """Return the resources of which one pod requests more than the whole quota."""
    match = _QUOTA.search(warning)
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
