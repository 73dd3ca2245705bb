"""The time that a task took over all its attempts, recorded next to its result."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from advgrpo.errors import StorageNotFoundError
from advgrpo.storage.files import read_bytes, write_bytes
from advgrpo.strict_json import load_json_object


@dataclass(frozen=True)
class Elapsed:
    """The time that some work took so far."""

    seconds: float = 0.0
    """Wall-clock time of all attempts; that of a killed attempt is lost."""

    processes: int = 1
    """Processes that worked on it."""

    on_gpu: bool = False
    images: int = 0
    """Images that were made."""

    complete: bool = False


def read_elapsed(location: str) -> Elapsed | None:
    """Read what `record_elapsed` wrote; None if there is no readable record."""
    try:
        return Elapsed(**load_json_object(read_bytes(location)))
    except (StorageNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def record_elapsed(
    location: str, *, processes: int, images: int, once: bool = False
) -> Iterator[None]:
    """Add the duration of the block to what earlier attempts took.

    Args:
        location: JSON file of the record.
        processes: How many work on it.
        images: How many images there are afterwards.
        once: Whether an attempt after a complete one with as many images adds nothing, because it
            only finds the finished result.
    """
    before, start = read_elapsed(location) or Elapsed(), time.monotonic()
    complete = before.complete
    try:
        yield
        complete = True
    finally:
        # In `finally`: the time of a failed attempt counts as well.
        if not (once and before.complete and before.images >= images):
            seconds = before.seconds + time.monotonic() - start
            on_gpu = torch.cuda.is_available()
            elapsed = Elapsed(seconds, processes, on_gpu, images, complete)
            write_bytes(location, json.dumps(asdict(elapsed)).encode())
