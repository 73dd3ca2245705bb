import pytest

from advgrpo.errors import ConfigError
from advgrpo.runtime.nodes import Nodes, nodes


def test_a_machine_without_an_operator_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PET_NNODES", raising=False)
    assert nodes() == Nodes()
    monkeypatch.setenv("PET_NNODES", "1:1")
    assert nodes() == Nodes()


@pytest.mark.parametrize(("count", "said"), [("2", "PET_NODE_RANK"), ("two", "'two'")])
def test_an_environment_that_says_too_little_is_refused(
    monkeypatch: pytest.MonkeyPatch, count: str, said: str
) -> None:
    monkeypatch.setenv("PET_NNODES", count)
    monkeypatch.delenv("PET_NODE_RANK", raising=False)
    with pytest.raises(ConfigError, match=said):
        nodes()
