"""Pixel statistics, which reveal reward hacking that learned scorers miss.

An OCR reward once raised the share of dark pixels from 45 % to 93 % and lowered edges by 60 % and
colour entropy by 54 % without an effect on any learned scorer. Neither direction is better; values
far from both the base model and the reference images are worse.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from advgrpo.config.scorers.base import MetricFacts

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in Rec. 709."""

DARK = 0.1
"""Luminance below which a pixel is dark."""

EDGE = 0.1
"""Luminance gradient per pixel above which a pixel is an edge."""

COLOUR_LEVELS = 8
"""Bins of each channel in the colour histogram."""


def _facts(
    label: str, note: str, unit: str, blind_to: str, *, range_: str = "0 to 1"
) -> MetricFacts:
    return MetricFacts(
        label=label,
        note=note,
        range=range_,
        unit=unit,
        higher_is_better=None,
        source="this package",
        licence="no weights",
        blind_to=blind_to,
    )


FACTS = {
    "image.dark_fraction": _facts(
        "Dark pixels", "share of the image", "share of pixels", "the content"
    ),
    "image.edge_density": _facts("Edges", "share of the image", "share of pixels", "the content"),
    "image.colour_entropy": _facts(
        "Colour entropy", "bits", "bits", "the content, and positions", range_="0 to 9"
    ),
    "image.high_frequency_share": _facts(
        "High frequencies",
        "share of the luminance's variance",
        "share of variance",
        "the difference between detail and noise",
    ),
    "image.high_frequency_peak": _facts(
        "Strongest high frequency",
        "share of the luminance's variance; high for grids",
        "share of variance",
        "grids that vary over the image",
    ),
}
"""Facts about each statistic."""


def image_statistics(
    images: Float[Tensor, "batch 3 height width"],
) -> Mapping[str, Float[Tensor, "batch"]]:
    """Compute the statistics of each image.

    Args:
        images: RGB in [0, 1].

    Returns:
        On the CPU, per image: `dark_fraction` and `edge_density`, shares of pixels in [0, 1];
        `colour_entropy`, bits in [0, 9]; `high_frequency_share`, the share in [0, 1] of
        the luminance's variance above half of the highest frequency, and `high_frequency_peak`, the
        share of the strongest single one of those frequencies: near 0 for noise and photographs,
        high for the grid artifacts of decoders and hacked rewards.
    """
    images = images.float().cpu()
    luminance = torch.einsum("bchw,c->bhw", images, torch.tensor(LUMINANCE))
    return {
        "dark_fraction": (luminance < DARK).float().mean(dim=(1, 2)),
        "edge_density": _edge_density(luminance),
        "colour_entropy": _colour_entropy(images),
        **_high_frequencies(luminance),
    }


def _edge_density(luminance: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch"]:
    # Replicated borders, so that the frame of the image is not an edge.
    rows = functional.pad(luminance, (1, 1, 0, 0), mode="replicate")
    columns = functional.pad(luminance, (0, 0, 1, 1), mode="replicate")
    across = (rows[:, :, 2:] - rows[:, :, :-2]) / 2
    down = (columns[:, 2:] - columns[:, :-2]) / 2
    # By length rather than by axis, so that the direction of an edge does not matter.
    is_edge: Tensor = torch.hypot(across, down) > EDGE
    return is_edge.float().mean(dim=(1, 2))


def _colour_entropy(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch"]:
    # A value of exactly 1 belongs to the last bin.
    # Few bins: with 256 levels there would be fewer pixels than bins, and the entropy would depend
    # on the size of the image.
    levels = (images * COLOUR_LEVELS).long().clamp(0, COLOUR_LEVELS - 1)
    # One number per colour, because histograms of single channels would miss how they combine.
    place = torch.tensor([COLOUR_LEVELS**2, COLOUR_LEVELS, 1]).view(1, 3, 1, 1)
    colours = (levels * place).sum(dim=1).flatten(1)
    counts = torch.zeros(len(images), COLOUR_LEVELS**3)
    counts.scatter_add_(1, colours, torch.ones_like(colours, dtype=torch.float32))
    shares = counts / counts.sum(dim=1, keepdim=True)
    # entr(0) is 0, as the limit requires.
    bits: Tensor = torch.special.entr(shares).sum(dim=1) / math.log(2)
    return bits


def _high_frequencies(
    luminance: Float[Tensor, "batch height width"],
) -> dict[str, Float[Tensor, "batch"]]:
    height, width = luminance.shape[-2:]
    # Without the mean, the power of all frequencies sums to the variance.
    centred = luminance - luminance.mean(dim=(1, 2), keepdim=True)
    power = torch.fft.fft2(centred).abs().square()
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None, :])
    # The Nyquist frequency is 0.5 cycles per pixel.
    high = power * (radius > 0.25)
    # The power of a real wave is split between a frequency and its negative, which coincide at the
    # Nyquist frequency: only there the mirrored power must not be added twice.
    mirrored = high.flip((1, 2)).roll((1, 1), (1, 2))
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    own_mirror = ((2 * rows) % height == 0) & ((2 * columns) % width == 0)
    waves = high + mirrored * own_mirror.logical_not()
    # A uniform image has no variance: avoid 0 / 0.
    total = power.sum(dim=(1, 2)).clamp_min(torch.finfo(torch.float32).tiny)
    return {
        "high_frequency_share": high.sum(dim=(1, 2)) / total,
        "high_frequency_peak": waves.amax(dim=(1, 2)) / total,
    }
