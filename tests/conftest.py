"""Fixtures and settings of all tests."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.runtime.processes import CPU_ENVIRONMENT, ONE_MACHINE_ENVIRONMENT
from studies.crash.interpreter import Warm
from tests.pretended_cuda import pretended_cuda
from tests.proxy import Proxy

# DeepSpeed reads them when it is imported.
os.environ.update(CPU_ENVIRONMENT | ONE_MACHINE_ENVIRONMENT)
# Torch resolves the name of each address that connects, loopback included. Without a name server
# that takes twenty seconds per launch of ranks; with this, two.
os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
# OMP_NUM_THREADS comes too late: torch reads it when it is imported.
torch.set_num_threads(1)

# A shell starts background jobs with SIGINT ignored, and child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

FOREIGN = ("AWS_", "MLFLOW_", "HF_", "ADVGRPO_", "NO_PROXY", "no_proxy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slow files under xdist, so that none of them runs alone at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Exempt all that is loaded from garbage collection: a pass over it takes seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the developer's servers, credentials and caches from every test."""
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ADVGRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def _own_log_filters() -> Iterator[None]:
    """Remove what code under test adds to pytest's own log handlers, which all tests share."""
    before = [(handler, handler.filters[:]) for handler in logging.getLogger().handlers]
    yield
    for handler, filters in before:
        handler.filters[:] = filters


@pytest.fixture(scope="session")
def running_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """A real S3 server and a real MLflow server, once for all tests."""
    from mlflow.tracking.request_header.databricks_request_header_provider import (
        DatabricksRequestHeaderProvider,
    )

    stores = EmbeddedServers(tmp_path_factory.mktemp("stores"))
    with stores, pytest.MonkeyPatch.context() as patch:
        # For each request, it tries a dozen times to import what is not installed.
        patch.setattr(DatabricksRequestHeaderProvider, "in_context", lambda _: False)
        yield stores


@pytest.fixture
def stores(running_stores: EmbeddedServers, monkeypatch: pytest.MonkeyPatch) -> EmbeddedServers:
    """The real servers, with their environment variables set."""
    for name, value in running_stores.environment().items():
        monkeypatch.setenv(name, value)
    return running_stores


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A process that has loaded all, and is forked for each Python command line."""
    with closing(Warm(tmp_path_factory.mktemp("warm") / "interpreter")) as warm:
        yield warm


@pytest.fixture(scope="session")
def warm_interpreter(warm: Warm) -> Path:
    """The program that runs Python command lines in such forks."""
    return warm.program


@pytest.fixture
def warm_python(warm_interpreter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes, and theirs, start in milliseconds instead of ten seconds of CPU time."""
    monkeypatch.setattr(sys, "executable", str(warm_interpreter))


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    """Return a function that starts a proxy of a server."""
    made: list[Proxy] = []

    def make(target: str) -> Proxy:
        made.append(Proxy(target))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """Pretend that the machine has a GPU."""
    with pretended_cuda() as device:
        yield device
