"""Kubernetes events about a job."""

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.resources import EVENTS
from advgrpo.errors import ClusterError

_WARNINGS_QUOTED = 3


def read_events(api: Api, selector: str) -> list[Json]:
    """Return the events that a field selector matches; none if they cannot be read."""
    try:
        return api.list(EVENTS, retry=False, fieldSelector=selector)
    except ClusterError:
        # Events only explain a failure; they must not replace it.
        return []


def read_warnings(api: Api, selector: str) -> list[str]:
    """Return the last warnings among the events that a field selector matches."""
    warnings = [one for one in read_events(api, selector) if one.get("type") == "Warning"]
    # Events are listed by name, which ends with the time in hexadecimal: the last ones are the
    # newest of their object.
    return [f"{one.get('reason')}: {one.get('message')}" for one in warnings][-_WARNINGS_QUOTED:]
