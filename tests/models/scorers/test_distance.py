import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from advgrpo.models.scorers.distance import (
    CMMD_SCALE,
    CMMD_WIDTH,
    KernelSums,
    frechet_distance,
    gaussian_kernel,
    kernel_distance,
)


def gaussian(images: int, features: int, seed: int) -> torch.Tensor:
    return torch.randn(images, features, generator=torch.Generator().manual_seed(seed))


def frechet_by_matrix_root(one: torch.Tensor, two: torch.Tensor) -> float:
    first, second = one.double().numpy(), two.double().numpy()
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = sqrtm(c1 @ c2).real
    shift = first.mean(axis=0) - second.mean(axis=0)
    return float(shift @ shift + np.trace(c1 + c2 - 2 * root))


def frechet_by_eigenvalues(one: torch.Tensor, two: torch.Tensor) -> float:
    c1, c2 = torch.cov(one.double().T), torch.cov(two.double().T)
    eigenvalues = torch.linalg.eigvals(c1 @ c2).real.clamp_min(0)
    shift = (one.double().mean(dim=0) - two.double().mean(dim=0)).square().sum()
    return (shift + torch.trace(c1 + c2) - 2 * eigenvalues.sqrt().sum()).item()


def test_a_shifted_gaussian_is_as_far_as_its_shift() -> None:
    images = gaussian(400, 8, seed=0)
    shift = torch.tensor([3.0, -4.0, 0, 0, 0, 0, 0, 0])

    assert frechet_distance(images + shift, images) == pytest.approx(25.0, rel=1e-5)


def test_a_gaussian_twice_as_wide_is_as_far_as_its_dimensions() -> None:
    # Covariances C and 4 C: tr(C + 4 C - 2 * 2 C) = tr(C).
    images = gaussian(500, 6, seed=1)
    centred = images - images.mean(dim=0)

    expected = torch.trace(torch.cov(images.double().T)).item()
    assert frechet_distance(2 * centred, centred) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("one", "two", "features"), [(50, 80, 12), (300, 200, 40)])
def test_frechet_distance_agrees_with_the_matrix_root(one: int, two: int, features: int) -> None:
    mixing = gaussian(features, features, seed=2)
    first, second = gaussian(one, features, seed=3) @ mixing, gaussian(two, features, seed=4) + 0.5

    distance = frechet_distance(first, second)

    assert distance == pytest.approx(frechet_by_matrix_root(first, second), rel=1e-6)
    assert distance == pytest.approx(frechet_by_eigenvalues(first, second), rel=1e-6)


def test_frechet_distance_holds_with_fewer_images_than_features() -> None:
    first, second = gaussian(20, 60, seed=5), gaussian(150, 60, seed=6) * 1.5 + 0.2

    assert frechet_distance(first, second) == pytest.approx(
        frechet_by_eigenvalues(first, second), rel=1e-5
    )


def test_a_set_is_at_no_distance_from_itself() -> None:
    images = gaussian(100, 10, seed=7)

    assert frechet_distance(images, images) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_one_distribution_falls_with_the_number_of_images() -> None:
    few = frechet_distance(gaussian(50, 10, seed=8), gaussian(50, 10, seed=9))
    many = frechet_distance(gaussian(5000, 10, seed=8), gaussian(5000, 10, seed=9))

    assert 0 < 20 * many < few


def test_a_weight_counts_an_image_as_often_as_repeating_it() -> None:
    images, others = gaussian(40, 5, seed=10), gaussian(40, 5, seed=11) + 1
    weights = torch.arange(40) % 3

    weighted = frechet_distance(images, others, generated_weights=weights.float())

    repeated = frechet_distance(images.repeat_interleave(weights, dim=0), others)
    assert weighted == pytest.approx(repeated, rel=1e-9)


def test_a_single_image_has_no_frechet_distance() -> None:
    with pytest.raises(ValueError, match="at least two images"):
        frechet_distance(gaussian(1, 3, seed=0), gaussian(5, 3, seed=1))


def kernel_by_definition(one: torch.Tensor, two: torch.Tensor) -> float:
    def mean(a: torch.Tensor, b: torch.Tensor, *, skip_own: bool) -> float:
        values = [
            (float(x.double() @ y.double()) / len(x) + 1) ** 3
            for i, x in enumerate(a)
            for j, y in enumerate(b)
            if not (skip_own and i == j)
        ]
        return sum(values) / len(values)

    within = mean(one, one, skip_own=True) + mean(two, two, skip_own=True)
    return within - 2 * mean(one, two, skip_own=False)


def test_kernel_distance_is_the_mean_over_all_pairs() -> None:
    one, two = gaussian(11, 4, seed=12), gaussian(7, 4, seed=13) + 0.3

    assert kernel_distance(one, two) == pytest.approx(kernel_by_definition(one, two), rel=1e-9)


def test_kernel_distance_is_unbiased_for_one_distribution() -> None:
    estimates = torch.tensor(
        [
            kernel_distance(gaussian(30, 6, seed=2 * i), gaussian(30, 6, seed=2 * i + 1))
            for i in range(200)
        ]
    )

    assert estimates.min() < 0
    assert estimates.mean().abs() < 3 * estimates.std() / 200**0.5


def test_prompts_with_one_image_of_one_set_each_give_the_distance_over_all_pairs() -> None:
    one, two = gaussian(24, 5, seed=14), gaussian(36, 5, seed=15) + 0.5
    sums = KernelSums.between(one, torch.arange(24), two, 24 + torch.arange(36))
    some = torch.zeros(1, 60)
    some[:, [*range(10), *range(24, 44)]] = 1

    distances = sums.distances(torch.cat([torch.ones(1, 60), some]))

    assert distances[0].item() == pytest.approx(kernel_distance(one, two), rel=1e-9)
    assert distances[1].item() == pytest.approx(kernel_distance(one[:10], two[:20]), rel=1e-9)


def test_images_of_the_same_prompt_do_not_make_two_sets_look_near() -> None:
    # Few prompts, much alike within: the mean over all pairs is far below 0 for equal sets.
    prompts = torch.arange(8).repeat_interleave(4)
    estimates, naive = [], []
    for seed in range(100):
        centres = 3 * gaussian(8, 6, seed=1000 + seed)[prompts]
        one = centres + gaussian(32, 6, seed=2000 + seed)
        two = centres + gaussian(32, 6, seed=3000 + seed)
        sums = KernelSums.between(one, prompts, two, prompts)
        estimates.append(sums.distances(torch.ones(1, 8)).item())
        naive.append(kernel_distance(one, two))

    error = float(torch.tensor(estimates).std()) / 100**0.5
    assert abs(sum(estimates) / 100) < 3 * error
    assert sum(naive) / 100 < -10 * error


def test_a_prompt_is_never_compared_with_its_own_copies() -> None:
    one, two = gaussian(8, 5, seed=16), gaussian(12, 5, seed=17)
    sums = KernelSums.between(
        one, torch.arange(4).repeat_interleave(2), two, torch.arange(4).repeat(3)
    )

    distances = sums.distances(torch.tensor([[2.0, 2.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]))

    assert torch.equal(distances[0], distances[1])


def test_one_prompt_alone_has_no_kernel_distance() -> None:
    one, two = gaussian(8, 5, seed=16), gaussian(12, 5, seed=17)
    sums = KernelSums.between(one, torch.arange(8) % 4, two, torch.arange(12) % 4)

    assert sums.distances(torch.tensor([[3.0, 0.0, 0.0, 0.0]])).isnan().all()


def test_cmmd_of_two_gaussians_is_the_closed_form() -> None:
    # For N(m, s^2 I) and N(0, s^2 I) in d dimensions, with a = width^2 and b = a + 2 s^2:
    # MMD^2 = 2 (a/b)^(d/2) (1 - exp(-|m|^2 / (2 b))).
    features, count, shift, spread = 3, 1500, 6.0, 2.0
    one = spread * gaussian(count, features, seed=20) + torch.tensor([shift, 0, 0])
    two = spread * gaussian(count, features, seed=21)
    sums = KernelSums.between(
        one, torch.arange(count), two, torch.arange(count), kernel=gaussian_kernel
    )

    distance = CMMD_SCALE * sums.distances(torch.ones(1, count)).item()

    a, b = CMMD_WIDTH**2, CMMD_WIDTH**2 + 2 * spread**2
    expected = 2 * (a / b) ** (features / 2) * (1 - math.exp(-(shift**2) / (2 * b)))
    assert distance == pytest.approx(CMMD_SCALE * expected, rel=0.05)


def test_cmmd_of_one_distribution_is_near_zero_and_may_be_below() -> None:
    estimates = []
    for seed in range(40):
        one, two = gaussian(40, 4, seed=2 * seed), gaussian(40, 4, seed=2 * seed + 1)
        sums = KernelSums.between(
            one, torch.arange(40), two, torch.arange(40), kernel=gaussian_kernel
        )
        estimates.append(sums.distances(torch.ones(1, 40)).item())

    assert min(estimates) < 0
    error = float(torch.tensor(estimates).std()) / 40**0.5
    assert abs(sum(estimates) / 40) < 3 * error


def test_the_gaussian_kernel_is_that_of_the_distance() -> None:
    one, two = gaussian(3, 5, seed=22), gaussian(4, 5, seed=23)

    expected = torch.exp(-torch.cdist(one.double(), two.double()).square() / 200)
    torch.testing.assert_close(gaussian_kernel(one, two), expected)
