import pytest
import torch
from torch import Tensor

from advgrpo.algorithm.ema import old_policy_decay
from advgrpo.algorithm.forward_process import add_noise, draw_sigmas
from advgrpo.algorithm.nft_loss import nft_loss, optimality_probability, self_normalized_error
from advgrpo.algorithm.schedule import flow_match_sigmas

SHAPE = (3, 2, 4, 4)
ADVANTAGES = torch.tensor([1.5, -0.5, -4.0])


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(old: Tensor, **settings: float) -> Tensor:
    velocity = normal(0).requires_grad_()
    result = nft_loss(velocity, old, normal(2), ADVANTAGES.double(), sigma=0.7, **settings)
    (found,) = torch.autograd.grad(result.loss, velocity)
    return found


@pytest.mark.parametrize(("beta", "clip"), [(1.0, 5.0), (0.1, 5.0), (2.0, 4.0)])
def test_at_the_old_policy_the_gradient_is_that_of_advantage_weighted_matching(
    beta: float, clip: float
) -> None:
    velocity = normal(0).requires_grad_()
    error = self_normalized_error(velocity, normal(2), sigma=0.7)
    (expected,) = torch.autograd.grad((ADVANTAGES.double() * error).mean(), velocity)
    torch.testing.assert_close(gradient(normal(0), beta=beta, advantage_clip=clip), expected)


def test_a_gradient_through_the_old_velocity_would_cancel_and_is_therefore_stopped() -> None:
    velocity = normal(0).requires_grad_()
    tied = nft_loss(
        velocity,
        velocity,
        normal(2),
        torch.ones(3).double(),
        sigma=1.0,
        beta=1.0,
        advantage_clip=5.0,
    )
    (found,) = torch.autograd.grad(tied.loss, velocity)
    assert float(found.norm()) > 0.01
    assert float(tied.contrast.max()) == 0


def test_the_loss_is_the_formula_on_predicted_images() -> None:
    clean, noise, sigma, beta = normal(4), normal(5), 0.6, 0.8
    velocity, old = normal(0), normal(1)
    noised = add_noise(clean, noise, sigma=sigma)
    expected = 0.0
    for image, advantage in enumerate(ADVANTAGES.tolist()):
        good = min(max(advantage / 2, -1), 1) / 2 + 0.5
        for weight, sign in ((good, 1), (1 - good, -1)):
            implicit = old + sign * beta * (velocity - old)
            error = noised[image] - sigma * implicit[image] - clean[image]
            expected += weight * float((error**2).mean() / error.abs().mean())
    result = nft_loss(
        velocity,
        old,
        noise - clean,
        ADVANTAGES.double(),
        sigma=sigma,
        beta=beta,
        advantage_clip=2.0,
    )
    assert float(result.loss) == pytest.approx(2 / beta * expected / 3)
    difference = (velocity - old).abs().mean(dim=(1, 2, 3)) / old.abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(result.contrast, difference)


def test_equal_rewards_at_the_old_policy_give_no_gradient() -> None:
    velocity = normal(0).requires_grad_()
    result = nft_loss(
        velocity, normal(0), normal(2), torch.zeros(3), sigma=0.7, beta=1.0, advantage_clip=5.0
    )
    (found,) = torch.autograd.grad(result.loss, velocity)
    assert float(found.abs().max()) == 0


def test_the_probability_is_one_half_at_the_group_mean_and_certain_at_the_clip() -> None:
    advantages = torch.tensor([-9.0, -2.0, 0.0, 1.0, 2.0, 9.0])
    found = optimality_probability(advantages, advantage_clip=2.0).tolist()
    assert found == [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]


def test_an_image_that_is_hit_exactly_has_no_error_and_no_division_by_zero() -> None:
    target = normal(2).requires_grad_()
    error = self_normalized_error(target, normal(2), sigma=0.5)
    (found,) = torch.autograd.grad(error.sum(), target)
    assert float(error.detach().abs().max()) == 0
    assert float(found.abs().max()) == 0


@pytest.mark.parametrize(
    ("step", "flat", "growth", "limit", "decay"),
    [
        (1, 0, 0.001, 0.5, 0.001),
        (900, 0, 0.001, 0.5, 0.5),
        (75, 75, 0.0075, 0.999, 0.0),
        (175, 75, 0.0075, 0.999, 0.75),
    ],
)
def test_the_old_policys_decay_follows_the_published_schedules(
    step: int, flat: int, growth: float, limit: float, decay: float
) -> None:
    found = old_policy_decay(step, flat_steps=flat, growth=growth, limit=limit)
    assert found == pytest.approx(decay)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_sigmas_are_drawn_from_all_parts_of_the_schedule(count: int) -> None:
    schedule = flow_match_sigmas(5, shift=3.0)
    drawn = [
        draw_sigmas(schedule, count, generator=torch.Generator().manual_seed(seed))
        for seed in range(40)
    ]
    # Different steps, from early to late.
    assert all(sorted(set(sigmas), reverse=True) == sigmas for sigmas in drawn)
    assert {len(sigmas) for sigmas in drawn} == {count}
    assert {sigma for sigmas in drawn for sigma in sigmas} == set(schedule[:-1].tolist())
    if count == 2:
        parts = [{sigmas[index] for sigmas in drawn} for index in (0, 1)]
        assert parts == [set(schedule[:2].tolist()), set(schedule[2:-1].tolist())]


def test_noised_latents_lie_between_image_and_noise() -> None:
    clean, noise = normal(0), normal(1)
    torch.testing.assert_close(add_noise(clean, noise, sigma=0.25), 0.75 * clean + 0.25 * noise)
    assert torch.equal(add_noise(clean, noise, sigma=1.0), noise)
