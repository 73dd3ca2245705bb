import pytest
import torch

from advgrpo.algorithm.discriminator_loss import (
    conditional_hinge_loss,
    hinge_loss,
    pairwise_loss,
)


def test_the_hinge_loss_is_zero_past_the_margins_and_one_at_zero() -> None:
    assert hinge_loss(torch.tensor([1.5]), torch.tensor([-1.0])) == 0
    assert hinge_loss(torch.zeros(3), torch.zeros(3)) == 1


def test_the_hinge_loss_of_known_logits_is_the_mean_of_both_sides() -> None:
    # 0.5 * (mean(relu(1 - r)) + mean(relu(1 + g))) = 0.5 * ((0.5 + 0) / 2 + (1.5 + 0) / 2)
    loss = hinge_loss(torch.tensor([0.5, 2.0]), torch.tensor([0.5, -3.0]))
    assert float(loss) == pytest.approx(0.5)


def test_without_mismatched_images_the_conditional_loss_is_the_plain_one() -> None:
    real, fake, other = torch.tensor([0.3, -1.0]), torch.tensor([0.1, 0.7]), torch.tensor([5.0])
    plain = hinge_loss(real, fake)
    assert conditional_hinge_loss(real, fake, other, mismatched_fraction=0.0) == plain
    mixed = conditional_hinge_loss(real, fake, other, mismatched_fraction=0.5)
    assert float(mixed) == pytest.approx(0.5 * (1.35 + 0.5 * 1.4 + 0.5 * 6.0))


def test_the_pairwise_loss_falls_as_the_reference_image_pulls_ahead() -> None:
    losses = [float(pairwise_loss(torch.tensor([d]), torch.zeros(1))) for d in (-2.0, 0.0, 2.0)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[1] == pytest.approx(0.6931, abs=1e-4)
