import pytest
import torch

from advgrpo.models.scorers.critic import fresh_critic_order, share_in_order


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pairs_of_one_prompt_are_compared_and_equal_ones_count_half() -> None:
    generated = torch.tensor([0.0, 100.0])
    reference = torch.tensor([[1.0, -1.0], [100.0, 101.0]])
    assert share_in_order(generated, reference) == pytest.approx((1 + 0 + 0.5 + 1) / 4)


def test_a_critic_orders_what_differs() -> None:
    generated, reference = drawn(64, 8, seed=0), drawn(64, 2, 8, seed=1)
    generated[:, 3] += 4
    assert fresh_critic_order(generated, reference) > 0.97


def test_a_critic_is_at_chance_level_for_equal_sets_even_with_more_features_than_images() -> None:
    # It fits its own images perfectly, so only images that it has not seen can tell.
    generated, reference = drawn(64, 512, seed=2), drawn(64, 2, 512, seed=3)
    assert fresh_critic_order(generated, reference) == pytest.approx(0.5, abs=0.15)


def test_a_critic_of_a_large_feature_and_many_small_ones_sees_the_small_difference() -> None:
    generated, reference = drawn(128, 16, seed=4), drawn(128, 2, 16, seed=5)
    generated[:, 0], reference[:, :, 0] = generated[:, 0] * 1e4, reference[:, :, 0] * 1e4
    generated[:, 9] -= 2
    assert fresh_critic_order(generated, reference) > 0.85


def test_a_constant_feature_is_harmless() -> None:
    generated, reference = torch.zeros(8, 3), torch.zeros(8, 1, 3)
    assert fresh_critic_order(generated, reference) == 0.5


def test_one_prompt_is_too_few_for_a_critic() -> None:
    with pytest.raises(ValueError, match="at least two prompts"):
        fresh_critic_order(torch.zeros(1, 3), torch.zeros(1, 2, 3))
