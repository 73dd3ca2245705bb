"""The status of each rank, so that the one that the others wait for can be named."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch.distributed.distributed_c10d import _get_default_store

_KEY = "advgrpo/rank-status/"


@dataclass(frozen=True)
class RankStatus:
    """The last published status of a rank."""

    host: str
    part: str
    """Part of the work, for instance "rollout"."""

    rollout: int
    idle_seconds: float
    """Seconds since its last progress."""

    waits: bool
    """Whether it is waiting for the other ranks."""


class RankMonitor:
    """The status of this rank, and the published status of the others.

    Args:
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._part, self._rollout, self._waits = "its start", 0, False
        self._last_progress = time.monotonic()
        self._store: Any = None

    def connect(self) -> None:
        """Connect to the other ranks, once the process group exists."""
        if self._world_size > 1:
            # torch has no public name for the store of the process group. A clone has its own
            # connection, so a thread that blocks on the original does not delay the watchdog.
            store: Any = _get_default_store()
            self._store = store.clone()

    def enter(self, part: str, rollout: int) -> None:
        """Record that a part of the work begins."""
        self._part, self._rollout = part, rollout
        self.beat()

    def beat(self) -> None:
        """Record progress."""
        self._last_progress = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark this rank as waiting for the others while the block runs."""
        self.beat()
        self._waits = True
        # No finally: a rank whose collective call failed was waiting until the end.
        yield
        self._waits = False
        self.beat()

    @property
    def status(self) -> RankStatus:
        """The current status of this rank."""
        idle = time.monotonic() - self._last_progress
        return RankStatus(socket.gethostname(), self._part, self._rollout, idle, self._waits)

    def publish(self) -> None:
        """Publish the status of this rank to the others."""
        if self._store is not None:
            self._store.set(_KEY + str(self._rank), json.dumps(asdict(self.status)))

    def describe(self) -> str:
        """Return the last published status of every rank as text."""
        return "; ".join(_describe(rank, self._status_of(rank)) for rank in range(self._world_size))

    def _status_of(self, rank: int) -> RankStatus | None:
        # The published one may be a poll old.
        if rank == self._rank:
            return self.status
        key = _KEY + str(rank)
        # Without the check, `get` blocks until the key exists.
        if self._store is None or not self._store.check([key]):
            return None
        return RankStatus(**json.loads(self._store.get(key)))


def _describe(rank: int, status: RankStatus | None) -> str:
    if status is None:
        return f"rank {rank} has not published a status"
    does = "waits for the others" if status.waits else "works or hangs"
    return (
        f"rank {rank} on {status.host} {does} in {status.part} of rollout {status.rollout}, "
        f"{status.idle_seconds:.0f} s without progress"
    )
