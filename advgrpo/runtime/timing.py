"""What a task took over all its attempts, kept beside its result."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from advgrpo.errors import StorageNotFoundError
from advgrpo.storage import read_bytes, write_bytes
from advgrpo.strict_json import parsed_object


@dataclass(frozen=True)
class Elapsed:
    """What something took so far."""

    seconds: float = 0.0
    """Wall-clock time of all attempts; that of one that was killed is lost."""

    processes: int = 1
    """Processes that worked on it."""

    on_gpu: bool = False
    images: int = 0
    """Images that were made."""

    complete: bool = False


def read_spent(location: str) -> Elapsed | None:
    """Read what something took; None if nobody noted it."""
    try:
        return Elapsed(**parsed_object(read_bytes(location)))
    except (StorageNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def time_spent(location: str, *, processes: int, images: int, once: bool = False) -> Iterator[None]:
    """Note how long the block takes, on top of what was noted before.

    Args:
        location: JSON file that keeps it.
        processes: How many work on it.
        images: How many images there are afterwards.
        once: Whether nothing is added after an attempt that came to its end: what comes then only
            looks at what is there.
    """
    before, start = read_spent(location) or Elapsed(), time.monotonic()
    complete = before.complete
    try:
        yield
        complete = True
    finally:
        if not (once and before.complete):
            seconds = before.seconds + time.monotonic() - start
            on_gpu = torch.cuda.is_available()
            spent = Elapsed(seconds, processes, on_gpu, images, complete)
            write_bytes(location, json.dumps(asdict(spent)).encode())
