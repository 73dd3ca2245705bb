from collections.abc import Callable

import pytest

from advgrpo.config import resolve
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.tasks import champion
from advgrpo.tasks.champion import FoundChampion, find_champion
from tests.proxy import Proxy


@pytest.fixture
def server(
    stores: EmbeddedServers, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> Proxy:
    made = proxy(stores.tracking_uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return made


def test_requests_to_an_unavailable_server_are_retried(
    server: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(champion, "RETRY_SECONDS", 6.0)
    server.next.extend(["refuse_all", "lose_answers"])
    assert find_champion(resolve("pocket"), workspace="unused") == FoundChampion()
    assert caplog.text.count("retrying to read the champion") == 2


def test_a_permanently_unavailable_server_marks_the_champion_as_missing(
    server: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(champion, "RETRY_SECONDS", 0.3)
    server.mode = "refuse_all"
    found = find_champion(resolve("pocket"), workspace="unused")
    assert "cannot look up the champion" in found.missing
