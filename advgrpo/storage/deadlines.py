"""Work that ends in time, whatever a server does."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class DeadlineExceededError(Exception):
    """Work took longer than it may."""


class Deadline:
    """When work must have ended; it can be told to take longer, or to stop at once.

    Args:
        seconds: How long it may take.
        whole: The deadline of what it is a part of, which then is the one that counts.
    """

    def __init__(self, seconds: float = 0.0, *, whole: "Deadline | None" = None) -> None:
        self._seconds = seconds
        self._start = time.monotonic()
        self._whole = whole
        self._stopped = False

    def allow(self, seconds: float) -> None:
        """Let the work take so much longer."""
        if self._whole is None:
            self._seconds += seconds
        else:
            self._whole.allow(seconds)

    def stop(self) -> None:
        """Have the work end at its next look, because nobody wants its outcome."""
        self._stopped = True

    @property
    def remaining(self) -> float:
        """Seconds that are left; none or less if the time is over."""
        if self._stopped:
            return 0.0
        if self._whole is not None:
            return self._whole.remaining
        return self._start + self._seconds - time.monotonic()

    def wait(self, seconds: float) -> None:
        """Wait for so long, or as long as there is time."""
        time.sleep(max(0.0, min(seconds, self.remaining)))

    def check(self) -> None:
        """Look whether time is left.

        Raises:
            DeadlineExceededError: If none is.
        """
        if self.remaining <= 0:
            raise DeadlineExceededError("it takes longer than it may")


class _Current(threading.local):
    deadline: Deadline | None = None


_current = _Current()


def check_current() -> None:
    """Look whether the work that this thread does, if any, has time left.

    Raises:
        DeadlineExceededError: If it has none.
    """
    if _current.deadline is not None:
        _current.deadline.check()


def run_with_deadline(
    whole: Deadline, works: Sequence[Callable[[Deadline], T]], *, threads: int = 1
) -> list[T]:
    """Do work, and stop waiting for it when its time is over.

    A socket's time-out bounds each silence of a server, not the whole: one that sends a byte now
    and then could go on for ever. So the work is done by threads, which do not keep the process
    alive and are left to themselves when they are late; whatever they do must look at the deadline
    before it changes anything.

    Args:
        whole: When it must have ended.
        works: What to do. Each is given its deadline, which is over once nobody waits.
        threads: How much of it at the same time.

    Returns:
        What the works return, in their order.

    Raises:
        DeadlineExceededError: If the time is over.
        Exception: The first that one of the works raises.
    """
    deadline = Deadline(whole=whole)
    waiting = deque(enumerate(works))
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    changed = threading.Condition()

    def work() -> None:
        _current.deadline = deadline
        # Of several threads, the last to look finds nothing left.
        with suppress(IndexError):
            while not errors:
                place, one = waiting.popleft()
                try:
                    results[place] = one(deadline)
                except BaseException as error:  # noqa: BLE001 - raised by who waits
                    errors.append(error)
                with changed:
                    changed.notify()

    for _ in range(min(threads, len(works))):
        threading.Thread(target=work, name="storage", daemon=True).start()
    try:
        with changed:
            while len(results) < len(works) and not errors:
                deadline.check()
                changed.wait(deadline.remaining)
    finally:
        deadline.stop()
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(works))]
