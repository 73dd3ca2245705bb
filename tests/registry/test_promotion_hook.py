from types import SimpleNamespace

import pytest

from advgrpo.errors import ClusterError, ConfigError
from advgrpo.registry.champion_changes import Promotion
from advgrpo.registry.promotion_hook import promotion_hook

CHAMPION = Promotion("faces", 3, "models:/faces/3")


class FakeKubeflow:
    """A fake of `kfp.Client`."""

    def __init__(self) -> None:
        self.started: list[dict[str, object]] = []

    def get_pipeline_id(self, name: str) -> str | None:
        return "p1" if name == "roll-out" else None

    def list_pipeline_versions(self, pipeline_id: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(
            pipeline_versions=[SimpleNamespace(pipeline_version_id=f"{pipeline_id}-v2")]
        )

    def create_experiment(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id=f"id of {name}")

    def run_pipeline(self, **arguments: object) -> SimpleNamespace:
        self.started.append(arguments)
        return SimpleNamespace(run_id="r9")


def test_without_a_pipeline_nothing_is_started() -> None:
    assert promotion_hook() is None


def test_the_newest_version_of_the_pipeline_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    kubeflow = FakeKubeflow()
    monkeypatch.setenv("ADVGRPO_ON_PROMOTION_PIPELINE", "roll-out")
    monkeypatch.setenv(
        "ADVGRPO_ON_PROMOTION_PARAMETERS", '{"from": "{uri}", "label": "{name}-{version}", "n": 2}'
    )
    announce = promotion_hook(lambda: kubeflow)
    assert announce is not None
    assert announce(CHAMPION) == "run r9 of pipeline roll-out"
    assert kubeflow.started == [
        {
            "experiment_id": "id of advgrpo promotions",
            "job_name": "faces version 3",
            "pipeline_id": "p1",
            "version_id": "p1-v2",
            "params": {"from": "models:/faces/3", "label": "faces-3", "n": 2},
        }
    ]


def test_a_missing_pipeline_or_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVGRPO_ON_PROMOTION_PIPELINE", "roll-up")
    announce = promotion_hook(FakeKubeflow)
    assert announce is not None
    with pytest.raises(ClusterError, match="roll-up: Kubeflow has no pipeline"):
        announce(CHAMPION)

    def unavailable() -> FakeKubeflow:
        raise OSError("connection refused")

    unreachable = promotion_hook(unavailable)
    assert unreachable is not None
    with pytest.raises(ClusterError, match="was not started: OSError: connection refused"):
        unreachable(CHAMPION)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_parameters_that_are_not_an_object_are_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVGRPO_ON_PROMOTION_PIPELINE", "roll-out")
    monkeypatch.setenv("ADVGRPO_ON_PROMOTION_PARAMETERS", text)
    with pytest.raises(ConfigError, match="ADVGRPO_ON_PROMOTION_PARAMETERS"):
        promotion_hook()
