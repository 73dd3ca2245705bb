import torch
from hypothesis import given
from hypothesis import strategies as st

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.algorithm.seeds import seed_for


def test_numbers_texts_and_boundaries_give_different_seeds() -> None:
    seeds = {seed_for(1), seed_for("1"), seed_for("ab", "c"), seed_for("a", "bc"), seed_for("abc")}
    assert len(seeds) == 5


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5), st.integers(0, 2**63 - 1))
def test_the_noise_of_an_image_does_not_depend_on_its_batch(seeds: list[int], other: int) -> None:
    alone = gaussian_noise([seeds[0]], (2, 3, 3))[0]
    assert torch.equal(gaussian_noise([other, *seeds], (2, 3, 3))[1], alone)


def test_drawing_noise_leaves_the_global_state_alone() -> None:
    before = torch.random.get_rng_state()
    gaussian_noise([1, 2], (1, 2, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
