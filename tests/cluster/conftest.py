"""A fake cluster in virtual time, and a launcher of its jobs."""

from collections.abc import Iterator

import pytest

from advgrpo.cluster.api import Api
from advgrpo.testing import FakeCluster
from tests.cluster.clock import Clock
from tests.cluster.launching import Launching, api_of


@pytest.fixture(scope="session")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def shared_cluster(clock: Clock) -> Iterator[FakeCluster]:
    with FakeCluster(clock=clock) as made:
        yield made


@pytest.fixture
def cluster(shared_cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    for name in ("KFP_POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    shared_cluster.reset()
    return shared_cluster


@pytest.fixture
def api(cluster: FakeCluster, clock: Clock) -> Iterator[Api]:
    made = api_of(cluster, clock)
    yield made
    made.close()


@pytest.fixture
def launching(cluster: FakeCluster, clock: Clock) -> Launching:
    return Launching(cluster, clock)
