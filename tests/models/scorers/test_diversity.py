import pytest
import torch

from advgrpo.models.scorers.diversity import in_group_distance


def test_distance_is_the_mean_over_the_pairs_of_a_prompt() -> None:
    features = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]]])

    # Distances 5, 8 and 5.
    assert in_group_distance(features).item() == pytest.approx(6.0)


def test_a_prompt_with_equal_images_has_no_diversity() -> None:
    collapsed = torch.full((1, 4, 16), 1234.5)
    varied = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))

    distances = in_group_distance(torch.cat([collapsed, varied]))

    assert distances[0] == 0
    assert distances[1] > 1


def test_diversity_needs_two_images() -> None:
    with pytest.raises(ValueError, match="at least two images"):
        in_group_distance(torch.zeros(3, 1, 8))
