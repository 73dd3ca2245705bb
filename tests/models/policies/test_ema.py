import pytest
import torch

from advgrpo.models.policies.ema import MovingAverage


def test_the_average_follows_the_parameters_with_a_warmed_up_decay() -> None:
    average = MovingAverage({"w": torch.zeros(2)}, limit=0.9)
    average.update({"w": torch.ones(2)}, step=0)
    assert average.values["w"].tolist() == pytest.approx([0.9, 0.9])
    average.update({"w": torch.ones(2)}, step=1000)
    assert average.values["w"].tolist() == pytest.approx([0.91, 0.91])


def test_the_average_is_a_copy() -> None:
    parameters = {"w": torch.zeros(1)}
    average = MovingAverage(parameters, limit=0.9)
    parameters["w"] += 1
    assert average.values["w"].item() == 0
