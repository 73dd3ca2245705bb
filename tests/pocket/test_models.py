import torch

from advgrpo.pocket.models import build_dino, build_pickscore, build_pipeline


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_dino(0)
    build_pickscore(0)
    build_pipeline(0)
    assert torch.equal(torch.rand(1), expected)
