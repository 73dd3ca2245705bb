import pytest

from advgrpo.config import resolve
from studies import fast_sampling
from studies.algorithms import ARMS, BESIDE_RELEASED, pictures, summary, tables
from studies.arms import Arm


def test_the_pictures_in_the_docs_are_those_of_the_recorded_runs() -> None:
    for path, picture in pictures().items():
        assert "<polyline" in picture
        assert path.read_text(encoding="utf-8") == picture


def test_the_summary_has_a_row_for_each_recorded_arm() -> None:
    recorded = {line.split("|")[1].strip().rpartition("-")[0] for line in tables().splitlines()[2:]}
    named = [line.split("|")[1].strip() for line in summary().splitlines()[2:]]
    assert named == [arm for arm in ARMS if arm in recorded]
    assert "inf" not in summary()


@pytest.mark.parametrize(
    "arm", [*ARMS.values(), *BESIDE_RELEASED.values(), *fast_sampling.ARMS.values()], ids=str
)
def test_an_arm_has_valid_settings(arm: Arm) -> None:
    assert resolve(arm.preset, arm.overrides).training.updates <= 24
