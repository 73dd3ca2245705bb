import pytest

from advgrpo.errors import ConfigError
from advgrpo.runtime.nodes import Nodes, nodes


def test_without_an_operator_there_is_a_single_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PET_NNODES", raising=False)
    assert nodes() == Nodes()
    monkeypatch.setenv("PET_NNODES", "1:1")
    assert nodes() == Nodes()


@pytest.mark.parametrize(("count", "message"), [("2", "PET_NODE_RANK"), ("two", "'two'")])
def test_an_incomplete_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, count: str, message: str
) -> None:
    monkeypatch.setenv("PET_NNODES", count)
    monkeypatch.delenv("PET_NODE_RANK", raising=False)
    with pytest.raises(ConfigError, match=message):
        nodes()
