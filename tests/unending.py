"""Plugin that ends a test which hangs in its clean-up after its timeout."""

import faulthandler
import os
import threading
from collections.abc import Generator

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

_PATIENCE_SECONDS = 300.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the process with the stacks of all threads, some time after the timeout of a test."""
    seconds = float(item.config.getini("timeout") or 0) + _PATIENCE_SECONDS
    timer = threading.Timer(seconds, _end, (item.config.stash[fault_handler_stderr_fd_key],))
    timer.daemon = True
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


def _end(stderr: int) -> None:
    faulthandler.dump_traceback(stderr, all_threads=True)
    os._exit(70)
