import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advgrpo.algorithm.advantage import best_and_worst, combined_rewards, group_advantages


def random_rewards(prompts: int, samples: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(prompts, samples, generator=generator) * 3 + 7


@pytest.mark.parametrize("normalization", ["group", "batch", "none"])
def test_a_group_with_equal_rewards_gives_no_gradient(normalization: str) -> None:
    rewards = random_rewards(3, 4, 0)
    rewards[1] = 5.0
    advantages = group_advantages(rewards, normalization=normalization)
    assert advantages[1].abs().max() == 0
    assert advantages[0].abs().max() > 0


@pytest.mark.parametrize("normalization", ["group", "batch", "none"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reward", [0.0, 0.9, 5.37, -26.3, 77.7, 987.6, 12345.678, 1e6 + 0.1])
@pytest.mark.parametrize("samples", [2, 12, 24])
def test_equal_rewards_of_any_scale_give_advantages_of_exactly_zero(
    normalization: str, standardize: bool, reward: float, samples: int, dtype: torch.dtype
) -> None:
    equal = torch.full((3, samples), reward, dtype=dtype)
    other = random_rewards(3, samples, 0).to(dtype)
    other[0] = equal[0]
    for term in (equal, other):
        rewards = combined_rewards([term], [0.7], standardize=standardize)
        advantages = group_advantages(rewards, normalization=normalization)
        assert advantages.dtype == dtype
        assert advantages[0].abs().max() == 0


@pytest.mark.parametrize("normalization", ["group", "batch"])
def test_one_image_that_differs_in_the_last_bit_of_its_reward_does_not_move_the_others(
    normalization: str,
) -> None:
    rewards = torch.full((1, 24), 12345.678)
    rewards[0, 0] = torch.nextafter(rewards[0, 0], torch.tensor(torch.inf))
    advantages = group_advantages(rewards, normalization=normalization)
    assert advantages[0, 0] > 1
    assert advantages[0, 1:].tolist() == pytest.approx([-float(advantages[0, 0]) / 23] * 23)


def test_a_reward_that_is_not_finite_spoils_its_own_group_only() -> None:
    rewards = random_rewards(2, 8, 0)
    rewards[0, 3] = torch.nan
    advantages = group_advantages(rewards, normalization="group")
    assert advantages.isnan().any(dim=1).tolist() == [True, False]


@given(
    prompts=st.integers(1, 6),
    samples=st.integers(2, 9),
    seed=st.integers(0, 1000),
    normalization=st.sampled_from(["group", "batch", "none"]),
)
def test_the_advantages_of_a_group_sum_to_zero(
    prompts: int, samples: int, seed: int, normalization: str
) -> None:
    advantages = group_advantages(
        random_rewards(prompts, samples, seed), normalization=normalization
    )
    assert advantages.sum(dim=1).abs().max() < 1e-3


def test_a_better_image_has_the_larger_advantage() -> None:
    advantages = group_advantages(torch.tensor([[1.0, 3.0, 2.0]]), normalization="group")
    assert advantages[0].argsort().tolist() == [0, 2, 1]


def test_group_normalization_gives_each_group_unit_spread() -> None:
    rewards = random_rewards(2, 8, 0) * torch.tensor([[1.0], [100.0]])
    advantages = group_advantages(rewards, normalization="group")
    assert advantages.std(dim=1, correction=0).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="group_size=1: a group needs at least two images"):
        group_advantages(torch.zeros(3, 1), normalization="batch")


def test_standardized_terms_count_alike_whatever_their_scale() -> None:
    small, large = random_rewards(4, 8, 0), random_rewards(4, 8, 1)
    plain = combined_rewards([small, large], [1.0, 1.0], standardize=True)
    scaled = combined_rewards([small, 1000 * large - 50], [1.0, 1.0], standardize=True)
    torch.testing.assert_close(plain, scaled, atol=2e-3, rtol=0)


def test_terms_that_are_not_standardized_are_added_by_weight() -> None:
    terms = [torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 30.0]])]
    assert combined_rewards(terms, [2.0, 0.5], standardize=False).tolist() == [[7.0, 19.0]]


def test_the_best_and_the_worst_of_each_group_are_chosen() -> None:
    rewards = torch.tensor([[5.0, 1.0, 4.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 3.0, 9.0, 3.5]])
    assert best_and_worst(rewards, best=1, worst=2).tolist() == [0, 1, 3, 4, 5, 7, 8, 9, 10]
    assert best_and_worst(rewards, best=2, worst=1).tolist() == [0, 1, 2, 4, 6, 7, 8, 10, 11]
