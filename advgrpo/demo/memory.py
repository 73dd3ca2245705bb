"""Peak memory of the demo."""

import os
import threading

import psutil


class MemoryWatch:
    """A thread that samples the memory of this process and all its descendants.

    Shared memory is counted once, by readings whenever resident memory reaches a new maximum.

    Args:
        seconds_between: Time between two samples.
    """

    def __init__(self, seconds_between: float = 1.0) -> None:
        self.peak_mib = 0.0
        self._seconds_between = seconds_between
        self._ended = threading.Event()
        # As a daemon, it never keeps the process alive.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        me, largest = psutil.Process(os.getpid()), 0
        while True:
            # Ranks are grandchildren, and processes come and go: listed again for each sample.
            processes = [me, *me.children(recursive=True)]
            resident = sum(_resident_bytes(process) for process in processes)
            # For the memory of its own, the kernel walks all pages of a process: milliseconds each.
            if resident > largest:
                largest = resident
                total = sum(_own_bytes(process) for process in processes)
                self.peak_mib = max(self.peak_mib, total / 2**20)
            # Unlike a sleep, this ends at once when the context is closed.
            if self._ended.wait(self._seconds_between):
                return


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.Error, OSError):
        return 0


def _own_bytes(process: psutil.Process) -> int:
    # Unlike RSS, PSS counts memory that processes share once; only Linux has it. USS leaves shared
    # memory out.
    try:
        memory = process.memory_full_info()
        return int(memory.pss if psutil.LINUX else memory.uss)
    except (psutil.Error, OSError):
        # It ended after it was listed, or it cannot be read.
        return 0
