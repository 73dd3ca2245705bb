import torch

from advgrpo.config.training import MonitoringConfig
from advgrpo.training.best import BestAdapter

ALIGNMENT = "held_out/judge.accuracy"


def considered(*pairs: tuple[float, float], select_adapter: str = "best") -> list[float]:
    config = MonitoringConfig(select_adapter=select_adapter, alignment_tolerance=0.02)
    best = BestAdapter(config, alignment=ALIGNMENT)
    for number, (distance, alignment) in enumerate(pairs):
        best.update(
            {"held_out/distance": float(distance), ALIGNMENT: alignment},
            {"w": torch.tensor([float(number)])},
        )
    return best.values["w"].tolist()


def test_the_smallest_distance_wins_while_alignment_holds() -> None:
    assert considered((30, 0.80), (5, 0.79), (8, 0.85)) == [1]


def test_a_small_distance_does_not_excuse_lost_alignment() -> None:
    assert considered((30, 0.80), (10, 0.79), (1, 0.60)) == [1]


def test_the_last_adapter_wins_if_it_is_configured() -> None:
    assert considered((30, 0.80), (5, 0.79), (40, 0.1), select_adapter="last") == [2]


def test_the_best_adapter_is_a_copy() -> None:
    best = BestAdapter(MonitoringConfig(), alignment=ALIGNMENT)
    values = {"w": torch.zeros(1)}
    best.update({"held_out/distance": 1.0, ALIGNMENT: 1.0}, values)
    values["w"] += 1
    assert best.values["w"].item() == 0
