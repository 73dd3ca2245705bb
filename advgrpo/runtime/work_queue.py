"""A queue of numbered pieces of work that the ranks of a job share."""

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Protocol, runtime_checkable

import torch.distributed as dist

from advgrpo.telemetry.progress import Progress

# The first rank may have to check 60 GB of images while the others wait.
_TIMEOUT = timedelta(hours=6)


@runtime_checkable
class WorkQueue(Protocol):
    """A queue that the ranks of a job claim work from."""

    rank: int
    """Number of this process; rank 0 does what is done once for all."""

    def broadcast(self, text: str) -> str:
        """Return the text of rank 0 on all ranks."""
        ...

    def claim(self, count: int) -> Iterator[int]:
        """Yield numbers below `count` until none is left; each number goes to one rank."""
        ...

    def barrier(self, name: str) -> None:
        """Wait until all ranks have called `barrier` with this name."""
        ...


class SingleWorker:
    """The queue of a single process."""

    rank = 0

    def broadcast(self, text: str) -> str:
        """Return the text."""
        return text

    def claim(self, count: int) -> Iterator[int]:
        """Yield all numbers below `count`."""
        yield from range(count)

    def barrier(self, name: str) -> None:
        """Return at once."""


class TorchrunWorkQueue:
    """The queue of processes that torchrun started, on one node or several.

    A shared counter hands out the numbers, so a slow rank delays no more than the piece that it
    holds. The counter is in torchrun's own store, so neither a process group nor a GPU is needed.

    Args:
        name: Name of the work, unique within a job.
    """

    def __init__(self, name: str) -> None:
        self.rank, self._world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            # torchrun's agent serves the store, also for rank 0.
            is_master=False,
            timeout=_TIMEOUT,
        )
        # torchrun keeps its store over restarts: without the attempt in the prefix, a restarted
        # job would find the counter at its end and draw nothing.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"{name}/{attempt}", store)  # type: ignore[attr-defined]

    def broadcast(self, text: str) -> str:
        """Return the text of rank 0 on all ranks."""
        if self.rank == 0:
            # Only once per name: the other ranks would read the first text again.
            self._store.set("shared", text)
        return str(self._store.get("shared").decode())

    def claim(self, count: int) -> Iterator[int]:
        """Yield numbers below `count` until none is left; each number goes to one rank."""
        # `add` is atomic on the server of the store.
        while (number := self._store.add("lease", 1) - 1) < count:
            yield number

    def barrier(self, name: str) -> None:
        """Wait until all ranks have called `barrier` with this name."""
        # Keys are never removed, so a name must be used only once: at the second use no rank would
        # wait.
        if self._store.add(f"at {name}", 1) == self._world_size:
            self._store.set(f"all at {name}", "yes")
        self._store.wait([f"all at {name}"], _TIMEOUT)


def open_work_queue(name: str) -> WorkQueue:
    """Return the queue of this job's ranks, or that of a single process.

    Args:
        name: Name of the work, unique within a job.
    """
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return TorchrunWorkQueue(name) if together else SingleWorker()


def claim_with_progress(
    queue: WorkQueue, sizes: Sequence[int], progress: Progress
) -> Iterator[int]:
    """Yield pieces of work, each to one rank, until none is left.

    Args:
        queue: The queue to claim from.
        sizes: Units of progress in each piece.
        progress: Counts a piece as done when the caller asks for the next one, together with the
            pieces that other ranks claimed in the meantime.
    """
    counted = 0
    for number in queue.claim(len(sizes)):
        yield number
        # Numbers are claimed in order, so all lower ones are at least in work on some rank.
        progress.advance(sum(sizes[counted : number + 1]))
        counted = number + 1
    # The last pieces went to other ranks.
    if counted < len(sizes):
        progress.advance(sum(sizes[counted:]))
