"""Workers that draw one set together: who takes what, and when all is done."""

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Protocol, runtime_checkable

import torch.distributed as dist

from advgrpo.telemetry.progress import Progress

_PATIENCE = timedelta(hours=6)
"""Longest wait for the others; the first worker may have 60 GB of images to look through."""


@runtime_checkable
class WorkQueue(Protocol):
    """The workers of a set."""

    worker: int
    """This one's number; the first looks after what concerns all."""

    def broadcast(self, text: str) -> str:
        """Hand the first worker's text to all."""
        ...

    def claim(self, count: int) -> Iterator[int]:
        """Take numbers below `count` until none is left; each goes to one worker."""
        ...

    def wait(self, name: str) -> None:
        """Wait until all have come to the point of this name."""
        ...


class SingleWorker:
    """A single worker."""

    worker = 0

    def broadcast(self, text: str) -> str:
        """Return the text."""
        return text

    def claim(self, count: int) -> Iterator[int]:
        """Take all."""
        yield from range(count)

    def wait(self, name: str) -> None:
        """Wait for nobody."""


class TorchrunWorkQueue:
    """The processes that torchrun started, on one node or several.

    Leases are numbers of a shared counter, so a slow worker delays no more than what it holds. The
    counter lives in torchrun's own store, so no process group and no GPU is needed.

    Args:
        name: Tells the sets that one job draws from each other.
    """

    def __init__(self, name: str) -> None:
        self.worker, self._count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=_PATIENCE,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"{name}/{attempt}", store)  # type: ignore[attr-defined]

    def broadcast(self, text: str) -> str:
        """Hand the first worker's text to all."""
        if self.worker == 0:
            self._store.set("shared", text)
        return str(self._store.get("shared").decode())

    def claim(self, count: int) -> Iterator[int]:
        """Take numbers below `count` until none is left; each goes to one worker."""
        while (number := self._store.add("lease", 1) - 1) < count:
            yield number

    def wait(self, name: str) -> None:
        """Wait until all have come to the point of this name."""
        if self._store.add(f"at {name}", 1) == self._count:
            self._store.set(f"all at {name}", "yes")
        self._store.wait([f"all at {name}"], _PATIENCE)


def open_work_queue(name: str) -> WorkQueue:
    """Return the queue that this process takes work from: torchrun's, or its own.

    Args:
        name: Tells the sets that one job draws from each other.
    """
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return TorchrunWorkQueue(name) if together else SingleWorker()


def claim_with_progress(
    queue: WorkQueue, sizes: Sequence[int], progress: Progress
) -> Iterator[int]:
    """Claim pieces of work until none is left.

    Args:
        queue: The workers that share the work.
        sizes: Units of progress in each piece.
        progress: Counts a piece when the caller asks for the next one. Pieces that other workers
            claimed in the meantime count as done, too.
    """
    counted = 0
    for number in queue.claim(len(sizes)):
        yield number
        progress.advance(sum(sizes[counted : number + 1]))
        counted = number + 1
    if counted < len(sizes):
        progress.advance(sum(sizes[counted:]))
