"""Where each training process stands, so that one can be named when the others wait for it."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch.distributed.distributed_c10d import _get_default_store

_KEY = "advgrpo/whereabouts/"


@dataclass(frozen=True)
class RankStatus:
    """What a process told last."""

    host: str
    part: str
    """Of the work, for instance "rollout"."""

    rollout: int
    idle_seconds: float
    """Since it last came further."""

    waits: bool
    """Whether it is waiting for the others."""


class RankMonitor:
    """Where this process stands, and what the others have told of themselves.

    Args:
        rank: This process.
        count: Number of processes.
    """

    def __init__(self, rank: int, count: int) -> None:
        self._rank, self._count = rank, count
        self._part, self._rollout, self._waits = "its start", 0, False
        self._beat = time.monotonic()
        self._store: Any = None

    def connect(self) -> None:
        """Reach the others; they have joined."""
        if self._count > 1:
            # The store through which the processes met; torch has no public name for it. A clone
            # has a connection of its own: nobody who waits on it holds this one up.
            store: Any = _get_default_store()
            self._store = store.clone()

    def enter(self, part: str, rollout: int) -> None:
        """Note that a part of the work begins."""
        self._part, self._rollout = part, rollout
        self.beat()

    def beat(self) -> None:
        """Note that the work goes on."""
        self._beat = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it, this process waits for the others."""
        self.beat()
        self._waits = True
        yield  # who does not come back from it was waiting to the end
        self._waits = False
        self.beat()

    @property
    def stand(self) -> RankStatus:
        """Where this process stands."""
        idle = time.monotonic() - self._beat
        return RankStatus(socket.gethostname(), self._part, self._rollout, idle, self._waits)

    def tell(self) -> None:
        """Tell the others."""
        if self._store is not None:
            self._store.set(_KEY + str(self._rank), json.dumps(asdict(self.stand)))

    def in_words(self) -> str:
        """Say where every process stands, as it last told."""
        return "; ".join(_in_words(rank, self._stand_of(rank)) for rank in range(self._count))

    def _stand_of(self, rank: int) -> RankStatus | None:
        if rank == self._rank:
            return self.stand
        key = _KEY + str(rank)
        if self._store is None or not self._store.check([key]):
            return None
        return RankStatus(**json.loads(self._store.get(key)))


def _in_words(rank: int, stand: RankStatus | None) -> str:
    if stand is None:
        return f"rank {rank} has not told where it is"
    does = "waits for the others" if stand.waits else "works or hangs"
    return (
        f"rank {rank} on {stand.host} {does} in {stand.part} of rollout {stand.rollout}, "
        f"{stand.idle_seconds:.0f} s without progress"
    )
