"""Deadlines for blocking calls, whatever a server does."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class DeadlineExceededError(Exception):
    """A call that took longer than its deadline."""


class Deadline:
    """The time by which a call must return; it can be extended or cancelled.

    Args:
        seconds: Time allowed from now.
        parent: A deadline that replaces `seconds` and that extensions go to.
    """

    def __init__(self, seconds: float = 0.0, *, parent: "Deadline | None" = None) -> None:
        self._seconds = seconds
        self._start = time.monotonic()
        self._parent = parent
        self._cancelled = False

    def extend(self, seconds: float) -> None:
        """Allow more time."""
        if self._parent is None:
            self._seconds += seconds
        else:
            self._parent.extend(seconds)

    def cancel(self) -> None:
        """Make every later check fail; the result is no longer needed."""
        self._cancelled = True

    @property
    def remaining(self) -> float:
        """Remaining time in seconds; zero or negative once it is over."""
        if self._cancelled:
            return 0.0
        if self._parent is not None:
            return self._parent.remaining
        return self._start + self._seconds - time.monotonic()

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than the remaining time."""
        time.sleep(max(0.0, min(seconds, self.remaining)))

    def check(self) -> None:
        """Check that time remains.

        Raises:
            DeadlineExceededError: If none does.
        """
        if self.remaining <= 0:
            raise DeadlineExceededError("deadline exceeded")


class _Current(threading.local):
    deadline: Deadline | None = None


_current = _Current()


def check_current() -> None:
    """Check the deadline of the call that this thread runs, if any.

    Raises:
        DeadlineExceededError: If it is over.
    """
    if _current.deadline is not None:
        _current.deadline.check()


def run_with_deadline(
    deadline: Deadline, calls: Sequence[Callable[[Deadline], T]], *, threads: int = 1
) -> list[T]:
    """Run calls in threads, and stop waiting for them at the deadline.

    A socket timeout bounds each pause of a server, not the whole transfer: a server that sends a
    byte now and then could block for ever. Calls therefore run in daemon threads, which are
    abandoned when they are late; a call must check its deadline before it changes anything.

    Args:
        deadline: When all calls must have returned.
        calls: Functions of a deadline that is cancelled once the result is no longer needed.
        threads: Calls to run at the same time.

    Returns:
        Results in the order of the calls.

    Raises:
        DeadlineExceededError: If the time is over.
        Exception: The first exception of a call.
    """
    own = Deadline(parent=deadline)
    waiting = deque(enumerate(calls))
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    changed = threading.Condition()

    def work() -> None:
        _current.deadline = own
        # Another thread may take the last call between the check and popleft().
        with suppress(IndexError):
            while not errors:
                index, call = waiting.popleft()
                try:
                    results[index] = call(own)
                except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
                    errors.append(error)
                with changed:
                    changed.notify()

    for _ in range(min(threads, len(calls))):
        # Not a ThreadPoolExecutor: its threads keep the process alive at exit.
        threading.Thread(target=work, name="storage", daemon=True).start()
    try:
        with changed:
            while len(results) < len(calls) and not errors:
                own.check()
                changed.wait(own.remaining)
    finally:
        own.cancel()
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(calls))]
