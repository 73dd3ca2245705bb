import math

import pytest
import torch

from advgrpo.models.scorers.statistics import image_statistics


def flat(red: float, green: float, blue: float, side: int = 16) -> torch.Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, side, side)


def test_a_flat_image_has_no_edges_no_entropy_and_no_high_frequencies() -> None:
    statistics = image_statistics(flat(0.3, 0.6, 0.9))

    assert statistics["edge_density"].item() == 0
    assert statistics["colour_entropy"].item() == 0
    assert statistics["high_frequency_share"].item() < 1e-6


def test_dark_pixels_are_counted_by_luminance() -> None:
    image = flat(0.0, 0.0, 0.0).clone()
    image[..., :4] = 1.0
    image[:, 2, :, 4:] = 0.9  # Blue is dark by its luminance.

    assert image_statistics(image)["dark_fraction"].item() == pytest.approx(0.75)


def test_a_step_is_an_edge_of_two_pixels() -> None:
    image = flat(0.0, 0.0, 0.0).clone()
    image[..., 8:] = 1.0

    assert image_statistics(image)["edge_density"].item() == pytest.approx(2 / 16)


def test_entropy_counts_colours_in_bits() -> None:
    image = flat(0.0, 0.0, 0.0).clone()
    image[:, 0, :8] = 1.0
    image[:, 1, :, 8:] = 1.0

    assert image_statistics(image)["colour_entropy"].item() == pytest.approx(math.log2(4))


def test_a_checkerboard_is_all_high_frequency_and_a_slow_wave_none() -> None:
    x = torch.arange(16)
    checkerboard = ((x[:, None] + x[None, :]) % 2).float().expand(1, 3, 16, 16)
    wave = ((torch.sin(2 * math.pi * x / 16) + 1) / 2).expand(1, 3, 16, 16)

    shares = image_statistics(torch.cat([checkerboard, wave]))["high_frequency_share"]

    assert shares[0].item() == pytest.approx(1.0, abs=1e-5)
    assert shares[1].item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("side", [16, 15])
def test_a_fine_grid_is_one_peak_and_noise_is_none(side: int) -> None:
    x = torch.arange(side)
    # Six waves across: above half of the highest frequency, below the highest.
    grid = ((torch.sin(2 * math.pi * 6 * x / side) + 1) / 2).expand(1, 3, side, side)
    noise = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))

    peaks = image_statistics(torch.cat([grid, noise.expand(1, 3, side, side)]))[
        "high_frequency_peak"
    ]

    assert peaks[0].item() == pytest.approx(1.0, abs=1e-5)
    assert peaks[1].item() < 0.1


def test_the_highest_frequency_is_counted_once() -> None:
    x = torch.arange(16)
    checkerboard = ((x[:, None] + x[None, :]) % 2).float().expand(1, 3, 16, 16)

    peak = image_statistics(checkerboard)["high_frequency_peak"]

    assert peak.item() == pytest.approx(1.0, abs=1e-5)


def test_images_are_independent() -> None:
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    together = image_statistics(images)

    for name, value in image_statistics(images[2:3]).items():
        assert together[name][2].item() == pytest.approx(value.item(), rel=1e-6)
