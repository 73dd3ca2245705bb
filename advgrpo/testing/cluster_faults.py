"""Faults between a client and the fake API server, and their schedule."""

from dataclasses import dataclass, field
from typing import Literal

FaultKind = Literal[
    "status",
    "reset_before",
    "reset_after",
    "silence",
    "silence_after",
    "slow",
    "cut",
    "cut_quietly",
]


@dataclass(frozen=True)
class Call:
    """A request in the terms of RBAC rules."""

    verb: str
    group: str
    resource: str
    """Includes the subresource, for instance `pods/log`."""

    namespace: str = ""
    name: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault that matching requests meet.

    `status` answers with an HTTP status and does nothing else. `reset_before` resets the
    connection, `reset_after` does so once the request was carried out. `silence` accepts the
    request and never answers, `silence_after` carries it out first. `slow` delays the answer. `cut`
    truncates the answer, `cut_quietly` truncates it undetectably: without a Content-Length.
    """

    kind: FaultKind
    skip: int = 0
    """Matching requests that succeed before the first one fails."""

    times: int = 1
    """Number of consecutive requests that fail after those."""

    verb: str = ""
    """Matches only requests with this verb; empty matches all."""

    resource: str = ""
    """Matches only requests for this resource; empty matches all."""

    status: int = 503
    retry_after_seconds: int | None = None
    seconds: float | int = 0
    """Delay of a slow answer, in real time."""

    def matches(self, call: Call) -> bool:
        """Return whether the fault applies to a request."""
        return self.verb in {"", call.verb} and self.resource in {"", call.resource}


@dataclass
class Faults:
    """A schedule of faults by request counts; the first planned one that is due wins."""

    planned: list[Fault] = field(default_factory=list)
    _seen: dict[int, int] = field(default_factory=dict)

    def plan(self, *faults: Fault) -> None:
        """Add faults, which count requests from now on."""
        self.planned.extend(faults)

    def clear(self) -> None:
        """Remove all faults."""
        self.planned.clear()
        self._seen.clear()

    def next_for(self, call: Call) -> Fault | None:
        """Count a request and return the fault that it meets, or None."""
        due = None
        for index, fault in enumerate(self.planned):
            if not fault.matches(call):
                continue
            seen = self._seen.get(index, 0)
            self._seen[index] = seen + 1
            if due is None and fault.skip <= seen < fault.skip + fault.times:
                due = fault
        return due
