"""Kubernetes events about a job."""

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.resources import EVENTS
from advgrpo.errors import ClusterError, ClusterUnavailableError

_WARNINGS_QUOTED = 3


def read_events(api: Api, backend: JobBackend, job: Json, *, retry: bool = False) -> list[Json]:
    """Return the events about a job.

    Args:
        api: The API server.
        backend: Of the job.
        job: As the API server returned it.
        retry: Whether it matters that there are none. Otherwise, there are none if they cannot be
            read.

    Raises:
        ClusterUnavailableError: If they matter, and the API server does not answer for its budget.
    """
    try:
        found = [
            one
            for selector in backend.event_selectors(job)
            for one in api.list(EVENTS, retry=retry, fieldSelector=selector)
        ]
    except ClusterError as error:
        if retry and isinstance(error, ClusterUnavailableError):
            raise
        # Events only explain a failure; they must not replace it.
        return []
    # A selector by name also matches events about an earlier job.
    created: str = job["metadata"]["creationTimestamp"]
    return [one for one in found if one["metadata"].get("creationTimestamp", created) >= created]


def read_warnings(api: Api, backend: JobBackend, job: Json, *, retry: bool = False) -> list[str]:
    """Return the last warnings among the events about a job; see `read_events`."""
    events = read_events(api, backend, job, retry=retry)
    warnings = [one for one in events if one.get("type") == "Warning"]
    # Events are listed by name, which ends with the time in hexadecimal: the last ones are the
    # newest of their object.
    return [f"{one.get('reason')}: {one.get('message')}" for one in warnings][-_WARNINGS_QUOTED:]
