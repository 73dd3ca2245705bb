"""Devices of tasks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device() -> torch.device:
    """Return the device of a single-process task: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Run the block with one CPU thread, if the CPU is the device."""
    # The number of threads that share a sum decides its last bits, and results must not depend on
    # the number of processes.
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def free_gpu_memory() -> int | None:
    """Return the free memory of this process's GPU, in bytes; None without a GPU."""
    # Of the whole GPU: memory that other processes hold is not free either.
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None
