"""What tests of several folders share."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.runtime.processes import CPU_ENVIRONMENT, ONE_MACHINE_ENVIRONMENT
from tests.proxy import Proxy

# Before anything imports DeepSpeed.
os.environ.update(CPU_ENVIRONMENT | ONE_MACHINE_ENVIRONMENT)
# Torch asks for the name of each address that connects, loopback too. Where nothing answers, that
# takes twenty seconds per start of ranks; with this, two.
os.environ["RES_OPTIONS"] = "timeout:1 attempts:1"
# The variable for it is read as torch loads, and torch is loaded by now.
torch.set_num_threads(1)

# Whoever starts the tests in the background has them ignore Ctrl-C, which processes inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

FOREIGN = ("AWS_", "MLFLOW_", "HF_", "ADVGRPO_", "NO_PROXY", "no_proxy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where files run side by side, begin with the slow ones: none is left for the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the developer's servers, credentials and caches out of every test."""
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ADVGRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def running_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """A real S3 server and a real MLflow server, once for all tests."""
    with EmbeddedServers(tmp_path_factory.mktemp("stores")) as stores:
        yield stores


@pytest.fixture
def stores(running_stores: EmbeddedServers, monkeypatch: pytest.MonkeyPatch) -> EmbeddedServers:
    """The real servers, with the variables set by which this process finds them."""
    for name, value in running_stores.environment().items():
        monkeypatch.setenv(name, value)
    return running_stores


@pytest.fixture
def proxy() -> Iterator[Callable[[str], Proxy]]:
    """Makes proxies before servers, and closes them."""
    made: list[Proxy] = []

    def make(target: str) -> Proxy:
        made.append(Proxy(target))
        return made[-1]

    yield make
    for one in made:
        one.close()
