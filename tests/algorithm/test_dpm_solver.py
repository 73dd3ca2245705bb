import math
from collections.abc import Callable

import torch

from advgrpo.algorithm.dpm_solver import follow_dpm_solver
from advgrpo.algorithm.sde import follow_ode

SPREAD = 0.3
"""Standard deviation of the images, whose noised copies are Gaussian at every sigma."""

NOISE = torch.linspace(-2, 2, 8, dtype=torch.float64).view(1, 1, 2, 4)


def velocity(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return latents * (sigma - (1 - sigma) * SPREAD**2) / variance


def error(follow: Callable[..., torch.Tensor], steps: int) -> float:
    # From a sigma within, as a tail of a window does; the ODE keeps the quantile.
    first = 0.8
    start = NOISE * math.sqrt((1 - first) ** 2 * SPREAD**2 + first**2)
    sigmas = [first * (1 - step / steps) for step in range(steps + 1)]
    return float((follow(velocity, start, sigmas) - NOISE * SPREAD).abs().max())


def test_its_error_falls_faster_than_that_of_euler_steps() -> None:
    # Of second and of first order.
    assert error(follow_dpm_solver, 8) < error(follow_dpm_solver, 4) / 4
    assert error(follow_ode, 8) > error(follow_ode, 4) / 2.1
    assert error(follow_dpm_solver, 8) < error(follow_ode, 8) / 2


def test_one_step_is_an_euler_step_from_pure_noise_too() -> None:
    for first in (0.8, 1.0):
        taken = (
            follow(velocity, NOISE, [first, 0.0]) for follow in (follow_dpm_solver, follow_ode)
        )
        torch.testing.assert_close(*taken)
