"""What goes wrong between a client and a pretended API server, and when."""

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
    """A request, as roles name it."""

    verb: str
    group: str
    resource: str
    """With its subresource, for instance `pods/log`."""

    namespace: str = ""
    name: str = ""


@dataclass(frozen=True)
class Fault:
    """Something that happens to requests.

    `status` answers with an HTTP status and does nothing else. `reset_before` breaks the
    connection, `reset_after` does so when the request was carried out. `silence` takes the request
    and never answers, `silence_after` carries it out first. `slow` answers late. `cut` ends an
    answer in its middle, `cut_quietly` so that the client cannot see that it is not whole.
    """

    kind: FaultKind
    skip: int = 0
    """How many requests that it could happen to pass before it does."""

    times: int = 1
    """To how many requests it then happens, one after the other."""

    verb: str = ""
    """Only to requests with this verb; empty for all."""

    resource: str = ""
    """Only to requests for this resource; empty for all."""

    status: int = 503
    retry_after_seconds: int | None = None
    seconds: float | int = 0
    """How much later a slow answer comes, in real time."""

    def concerns(self, call: Call) -> bool:
        """Say whether it could happen to a request."""
        return self.verb in {"", call.verb} and self.resource in {"", call.resource}


@dataclass
class Faults:
    """A schedule of faults, which counts requests. Of two that are due, the earlier one happens."""

    planned: list[Fault] = field(default_factory=list)
    _seen: dict[int, int] = field(default_factory=dict)

    def plan(self, *faults: Fault) -> None:
        """Add faults; they count requests from now on."""
        self.planned.extend(faults)

    def clear(self) -> None:
        """Let everything go right from now on."""
        self.planned.clear()
        self._seen.clear()

    def next_for(self, call: Call) -> Fault | None:
        """Count a request, and say what happens to it."""
        due = None
        for index, fault in enumerate(self.planned):
            if not fault.concerns(call):
                continue
            seen = self._seen.get(index, 0)
            self._seen[index] = seen + 1
            if due is None and fault.skip <= seen < fault.skip + fault.times:
                due = fault
        return due
