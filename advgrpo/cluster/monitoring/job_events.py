"""Kubernetes events about a job."""

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.resources import EVENTS
from advgrpo.errors import ClusterError

_WARNINGS_QUOTED = 3


def read_events(api: Api, backend: JobBackend, job: Json) -> list[Json]:
    """Return the events about a job; none if they cannot be read."""
    try:
        found = [
            one
            for selector in backend.event_selectors(job)
            for one in api.list(EVENTS, retry=False, fieldSelector=selector)
        ]
    except ClusterError:
        # Events only explain a failure; they must not replace it.
        return []
    # A selector by name also matches events about an earlier job.
    created: str = job["metadata"]["creationTimestamp"]
    return [one for one in found if one["metadata"].get("creationTimestamp", created) >= created]


def read_warnings(api: Api, backend: JobBackend, job: Json) -> list[str]:
    """Return the last warnings among the events about a job."""
    warnings = [one for one in read_events(api, backend, job) if one.get("type") == "Warning"]
    # Events are listed by name, which ends with the time in hexadecimal: the last ones are the
    # newest of their object.
    return [f"{one.get('reason')}: {one.get('message')}" for one in warnings][-_WARNINGS_QUOTED:]
