from collections.abc import Callable

import torch

from advgrpo.config.algorithms import AwmConfig
from advgrpo.training.algorithms.noised import noised_copies
from advgrpo.training.loop import train_on_rollout
from advgrpo.training.state import TrainingState
from advgrpo.training.steps import generate, plan_rollout

AWM = AwmConfig()
Make = Callable[..., TrainingState]


def test_before_the_first_optimizer_step_the_ratio_is_exactly_one(make_state: Make) -> None:
    metrics = train_on_rollout(make_state(algorithm=AWM))
    assert metrics["policy/ratio_error_before_step"] == 0
    assert metrics["policy/ratio_std"] == 0
    assert metrics["policy/gradient_norm"] > 0


def test_the_second_step_on_a_rollout_has_other_ratios(make_state: Make) -> None:
    metrics = train_on_rollout(make_state("training.optimizer_steps_per_update=2", algorithm=AWM))
    assert metrics["policy/ratio_error_before_step"] == 0
    assert metrics["policy/ratio_std"] > 0


def test_its_first_gradient_is_that_of_the_matching_error_weighted_by_clipped_advantages(
    make_state: Make,
) -> None:
    state = make_state(algorithm=AwmConfig(advantage_clip=1.0))
    plan = plan_rollout(state)
    rollout = generate(state, plan).part(slice(0, 4))
    embeddings = state.policy.embed(state.texts(rollout.prompt_ids.tolist()))
    parameters = list(state.policy.trainable_parameters().values())
    copies = noised_copies(
        rollout.recorded["clean_latents"],
        list(zip(rollout.prompt_ids.tolist(), rollout.samples.tolist(), strict=True)),
        state.policy.sigmas(3),
        draws=2,
        seed=0,
        rollout=0,
    )
    with state.policy.without_engine():
        losses = state.algorithm.losses(rollout, torch.tensor([0.5, -2.0, 3.0, 0.0]), embeddings)
        for copy, loss in zip(copies, losses, strict=True):
            velocity = state.policy.velocity(
                copy.latents, copy.sigma, embeddings, guidance_scale=1.0
            )
            errors = ((velocity - copy.target) ** 2).mean(dim=(1, 2, 3))
            weighted = (torch.tensor([0.5, -1.0, 1.0, 0.0]) * errors).mean()
            expected = torch.autograd.grad(weighted, parameters)
            found = torch.autograd.grad(loss.total, parameters)
            assert max(float(value.norm()) for value in found) > 0
            torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
