"""The crash harness in small; `make crash-test` makes more kills."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from advgrpo.storage import join
from advgrpo.stores import EmbeddedStores
from advgrpo.tasks.inputs import FEATURES
from studies.crash.job import WORKSPACE
from studies.crash.outcome import differences
from studies.crash.points import POINTS, arm
from studies.crash.rig import Kill, Rig, random_kill
from studies.crash.strikes import STRIKES


@pytest.fixture
def rig(stores: EmbeddedStores, tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path / "rig", stores) as rig:
        yield rig


@pytest.mark.slow
def test_a_killed_job_ends_as_one_that_nobody_disturbed(rig: Rig) -> None:
    rig.measure(runs=1)
    for kill in (Kill(1, "machine lost", 0.55), Kill(2, "one rank", 0.45)):
        struck = rig.strike(kill, seed=0)
        assert struck.good, struck.line()


def test_every_difference_is_told() -> None:
    expected = {"weights": "a", "metric": "[1]", "picture": "c"}
    found = {"weights": "b", "metric": "[1]", "table": "d"}
    assert differences(expected, found) == [
        "picture: c became (absent)",
        "table: (absent) became d",
        "weights: a became b",
    ]


def test_a_kill_can_be_repeated_from_its_seed_and_number() -> None:
    kills = [random_kill(1, number) for number in range(1, 200)]
    assert kills == [random_kill(1, number) for number in range(1, 200)]
    assert {kill.kind for kill in kills} == STRIKES.keys()
    assert kills != [random_kill(2, number) for number in range(1, 200)]


def test_the_point_before_features_are_kept_looks_where_they_are() -> None:
    place = join(WORKSPACE, FEATURES, "fingerprint", "shard.safetensors")
    assert POINTS["before features are kept"].split()[-1] in place


@pytest.mark.parametrize("point", POINTS)
def test_every_named_point_exists(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies.crash import points

    replaced: list[str] = []
    monkeypatch.setattr(points, "_replace", lambda _owner, name, _to: replaced.append(name))
    monkeypatch.setenv(points.POINT_VARIABLE, point)
    arm()
    assert len(replaced) == 1
