import math

import pytest
import torch

from advgrpo.algorithm.ema import ema_decay
from advgrpo.algorithm.policy_loss import (
    clipped_policy_loss,
    divergence_policy_loss,
    normalized_log_ratio,
)
from advgrpo.algorithm.sde import GaussianStep, gaussian_divergence, gaussian_log_prob


def gradient(log_prob: float, advantage: float, clip_range: float = 0.1) -> float:
    value = torch.tensor([log_prob], requires_grad=True)
    result = clipped_policy_loss(
        value, torch.zeros(1), torch.tensor([advantage]), clip_range=clip_range
    )
    result.loss.backward()
    assert value.grad is not None
    return float(value.grad)


def test_the_first_step_on_a_rollout_has_ratio_one_and_the_advantage_as_gradient() -> None:
    assert gradient(0.0, 2.0) == pytest.approx(-2.0)


@pytest.mark.parametrize(
    ("log_prob", "advantage"), [(0.2, 1.0), (-0.2, -1.0)], ids=["above", "below"]
)
def test_a_ratio_past_the_clip_gives_no_gradient(log_prob: float, advantage: float) -> None:
    assert gradient(log_prob, advantage) == 0


@pytest.mark.parametrize(("log_prob", "advantage"), [(0.2, -1.0), (-0.2, 1.0)])
def test_a_ratio_past_the_other_clip_is_pulled_back(log_prob: float, advantage: float) -> None:
    assert gradient(log_prob, advantage) != 0


def test_clipping_is_counted_by_sign() -> None:
    result = clipped_policy_loss(
        torch.tensor([0.2, 0.2, -0.2, 0.0]),
        torch.zeros(4),
        torch.tensor([1.0, -1.0, -1.0, 1.0]),
        clip_range=0.1,
    )
    assert (float(result.clipped_above), float(result.clipped_below)) == (0.25, 0.25)


def test_the_average_forgets_fast_at_first_and_slowly_later() -> None:
    decays = [ema_decay(step, limit=0.9) for step in (0, 1, 10, 1000)]
    assert decays == pytest.approx([0.1, 2 / 11, 11 / 20, 0.9])


@pytest.mark.parametrize(
    ("log_prob", "advantage", "divergence", "gradient"),
    [
        # Within the bound the ratio is not limited.
        (0.3, 1.0, 0.1, -math.exp(0.3)),
        (-0.3, -1.0, 0.1, math.exp(-0.3)),
        # Beyond it, only the way back is left.
        (0.3, 1.0, 0.3, 0.0),
        (-0.3, -1.0, 0.3, 0.0),
        (0.3, -1.0, 0.3, math.exp(0.3)),
        (-0.3, 1.0, 0.3, -math.exp(-0.3)),
    ],
)
def test_a_step_beyond_the_bound_gives_no_gradient_that_leads_further_away(
    log_prob: float, advantage: float, divergence: float, gradient: float
) -> None:
    value = torch.tensor([log_prob], requires_grad=True)
    result = divergence_policy_loss(
        value,
        torch.zeros(1),
        torch.tensor([advantage]),
        torch.tensor([divergence]),
        bound=0.2,
    )
    (found,) = torch.autograd.grad(result.loss, value)
    assert float(found) == pytest.approx(gradient)
    masked = float(result.clipped_above) + float(result.clipped_below)
    assert masked == (1 if gradient == 0 else 0)


@pytest.mark.parametrize("std", [0.05, 0.8])
def test_a_normalized_ratio_is_the_noise_times_the_movement_of_the_mean(std: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, noise, movement = torch.randn(3, 2, 4, 5, 5, generator=generator, dtype=torch.float64)
    moved = mean + 0.01 * movement
    drawn = mean + std * noise
    before, after = (gaussian_log_prob(drawn, GaussianStep(m, std)) for m in (mean, moved))
    divergence = gaussian_divergence(moved, mean, std=std)
    found = normalized_log_ratio(after, before, divergence, std=std)
    torch.testing.assert_close(found, (0.01 * movement * noise).mean(dim=(1, 2, 3)))
