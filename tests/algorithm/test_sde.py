import math

import pytest
import torch
from torch.distributions import Normal

from advgrpo.algorithm import sde
from advgrpo.algorithm.schedule import flow_match_sigmas

SIGMAS = flow_match_sigmas(10, shift=3.0).tolist()
SHAPE = (4, 8, 6, 6)


def random(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("step", range(10))
def test_a_step_without_noise_is_the_euler_step(step: int) -> None:
    latents, velocity = random(0), random(1)
    sigma, next_sigma = SIGMAS[step], SIGMAS[step + 1]
    drawn = sde.cps_step(latents, velocity, sigma=sigma, next_sigma=next_sigma, noise_level=0.0)
    euler = sde.euler_step(latents, velocity, sigma=sigma, next_sigma=next_sigma)
    assert drawn.std == 0
    torch.testing.assert_close(drawn.mean, euler, atol=1e-5, rtol=1e-5)


def test_the_noise_of_the_first_two_steps_is_the_published_one() -> None:
    stds = [
        sde.cps_step(random(0), random(1), sigma=s, next_sigma=t, noise_level=0.8).std
        for s, t in ((SIGMAS[0], SIGMAS[1]), (SIGMAS[1], SIGMAS[2]))
    ]
    assert stds == pytest.approx([0.9131, 0.8686], abs=1e-4)


def test_the_noise_of_the_sde_is_the_published_one() -> None:
    expected = [0.700, 0.743, 0.536, 0.446, 0.392, 0.353, 0.319, 0.282, 0.225]
    for step, std in enumerate(expected):
        found = sde.flow_sde_step(
            random(0),
            random(1),
            sigma=SIGMAS[step],
            next_sigma=SIGMAS[step + 1],
            noise_level=0.7,
            largest_sigma_below_one=SIGMAS[1],
        )
        assert found.std == pytest.approx(std, abs=1e-3)


def test_coefficients_preserving_sampling_keeps_the_noise_that_the_schedule_wants() -> None:
    # A perfect model: the velocity is noise - image, so the next latents must hold next_sigma of
    # unit noise in all.
    shape = (2000, 1, 4, 4)
    generator = torch.Generator().manual_seed(0)
    noise, fresh = (torch.randn(shape, generator=generator) for _ in range(2))
    sigma, next_sigma = SIGMAS[3], SIGMAS[4]
    step = sde.cps_step(sigma * noise, noise, sigma=sigma, next_sigma=next_sigma, noise_level=0.8)
    assert sde.draw(step, fresh).std().item() == pytest.approx(next_sigma, rel=0.01)


def test_the_log_prob_is_that_of_a_normal_distribution() -> None:
    step = sde.GaussianStep(mean=random(0), std=0.37)
    next_latents = random(1)
    expected = Normal(step.mean, step.std).log_prob(next_latents).mean(dim=(1, 2, 3))
    torch.testing.assert_close(sde.gaussian_log_prob(next_latents, step), expected)


def test_the_released_log_prob_is_the_gaussian_one_up_to_scale_and_constant() -> None:
    step = sde.GaussianStep(mean=random(0), std=0.5)
    next_latents = random(1)
    constant = -math.log(0.5) - 0.5 * math.log(2 * math.pi)
    scaled = sde.released_log_prob(next_latents, step) / (2 * 0.5**2) + constant
    torch.testing.assert_close(sde.gaussian_log_prob(next_latents, step), scaled)


def test_the_divergence_of_equal_steps_is_zero_and_grows_with_the_distance() -> None:
    mean = random(0)
    assert sde.gaussian_divergence(mean, mean, std=0.5).abs().max() == 0
    near = sde.gaussian_divergence(mean, mean + 0.1, std=0.5)
    torch.testing.assert_close(near, torch.full((4,), 0.01 / 0.5))
