import pytest
import torch

from advgrpo.evaluation.bootstrap import SET_RESAMPLES, Bootstrap


def bootstrap(prompts: int, *, samples: int = 2000, seed: int = 0) -> Bootstrap:
    return Bootstrap(prompts, samples=samples, confidence=0.95, seed=seed)


def test_each_resample_draws_as_many_prompts_as_there_are() -> None:
    counts = bootstrap(30).counts

    assert counts.shape == (2000, 30)
    assert torch.equal(counts.sum(dim=1), torch.full((2000,), 30.0, dtype=torch.float64))
    assert counts.std() > 0


def test_the_interval_of_a_mean_has_the_textbook_width() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    resampler = bootstrap(400)

    interval = resampler.interval(float(values.mean()), resampler.means(values))

    expected = 1.96 * float(values.std()) / 400**0.5
    assert interval.high - interval.mean == pytest.approx(expected, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(expected, rel=0.1)


def test_a_shift_of_all_resamples_does_not_move_the_interval() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(2))
    resampler = bootstrap(50)

    plain = resampler.interval(3.0, resampler.means(values))
    biased = resampler.interval(3.0, resampler.means(values) + 7)

    assert plain.low < 3.0 < plain.high
    assert biased.low == pytest.approx(plain.low)
    assert biased.high == pytest.approx(plain.high)


def test_the_same_seed_draws_the_same_prompts() -> None:
    assert torch.equal(bootstrap(10, seed=5).counts, bootstrap(10, seed=5).counts)
    assert not torch.equal(bootstrap(10, seed=5).counts, bootstrap(10, seed=6).counts)


def test_a_distance_of_sets_is_resampled_fewer_times() -> None:
    resampler = bootstrap(10)

    assert len(resampler.each(lambda counts: float(counts[0]))) == SET_RESAMPLES


def test_a_prompt_without_a_value_is_ignored_in_each_resample() -> None:
    resamples = bootstrap(4, samples=50)
    with_gaps = torch.tensor([1.0, float("nan"), 3.0, float("nan")])

    means = resamples.means(with_gaps)

    drawn = resamples.counts[:, [0, 2]]
    expected = (drawn * torch.tensor([1.0, 3.0])).sum(dim=1) / drawn.sum(dim=1)
    torch.testing.assert_close(means, expected, equal_nan=True)
    assert means.isnan().any()
    interval = resamples.interval(2.0, means)
    assert interval.low < 2.0 < interval.high
