import pytest
import torch

from advgrpo.algorithm.randomness import generator_for
from advgrpo.algorithm.schedule import flow_match_sigmas, window_start

# Sigmas of Stable Diffusion 3.5 with 10 steps, as algorithm descriptions of it print them.
PUBLISHED = [1.0, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089, 0.0]


def test_the_sigmas_of_ten_steps_are_the_published_ones() -> None:
    sigmas = flow_match_sigmas(10, shift=3.0)
    torch.testing.assert_close(sigmas, torch.tensor(PUBLISHED), atol=1e-4, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 8, 28])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_sigmas_are_those_of_the_diffusers_scheduler(steps: int, shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(
        flow_match_sigmas(steps, shift=shift), scheduler.sigmas, atol=1e-6, rtol=0
    )


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_inference_steps=0"):
        flow_match_sigmas(0, shift=3.0)


def test_a_random_window_reaches_both_ends_and_not_beyond() -> None:
    starts = {window_start(1, 4, generator=generator_for(0, "window", k)) for k in range(200)}
    assert starts == {1, 2, 3, 4}
