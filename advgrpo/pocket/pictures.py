"""A renderer of pocket pictures by signed-distance functions, in styles from dull (0) to crisp (1).

A dull picture has soft and wobbling edges, washed-out colours and blotchy noise. A crisp one, in
the style of the reference images, has a dark outline, shading, a highlight, a drop shadow and a
striped, graded background. All of it changes continuously with the style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from advgrpo.pocket.captions import Caption

RESOLUTION_PIXELS = 32

_SHAPE_RGB = torch.tensor(
    [
        [0.90, 0.10, 0.12],  # red
        [0.10, 0.72, 0.18],  # green
        [0.12, 0.30, 0.95],  # blue
        [0.98, 0.90, 0.10],  # yellow
        [0.60, 0.15, 0.75],  # purple
        [1.00, 0.52, 0.05],  # orange
    ]
)
_BACKGROUND_RGB = torch.tensor(
    [
        [0.97, 0.97, 0.97],  # white
        [0.55, 0.55, 0.55],  # gray
        [0.06, 0.06, 0.06],  # black
        [0.06, 0.08, 0.40],  # navy
        [0.85, 0.72, 0.52],  # tan
        [0.08, 0.52, 0.52],  # teal
    ]
)
_RADIUS_PIXELS = torch.tensor([6.4, 10.0])
_CENTER_PIXELS = torch.tensor(
    [[16.0, 16.0], [10.0, 16.0], [22.0, 16.0], [16.0, 10.0], [16.0, 22.0]]
)
_UNIFORMS = 6
_COARSE = 4


@dataclass(frozen=True)
class PictureNoise:
    """The random part of a batch of pictures: exact positions, blotches and grain."""

    uniforms: Float[Tensor, "batch 6"]
    blotches: Float[Tensor, "batch 4 4 4"]
    grain: Float[Tensor, "batch 3 32 32"]

    @classmethod
    def draw(cls, batch: int, generator: torch.Generator) -> PictureNoise:
        """Draw the noise of a whole batch from one generator."""
        size = RESOLUTION_PIXELS
        return cls(
            uniforms=torch.rand(batch, _UNIFORMS, generator=generator),
            blotches=torch.randn(batch, 4, _COARSE, _COARSE, generator=generator),
            grain=torch.randn(batch, 3, size, size, generator=generator),
        )

    @classmethod
    def from_seeds(cls, seeds: Sequence[int]) -> PictureNoise:
        """Draw the noise of each picture from its own seed, independent of the batch."""
        # One generator per picture: with a shared one, a picture would depend on its batch.
        single = [cls.draw(1, torch.Generator().manual_seed(seed)) for seed in seeds]
        return cls(
            uniforms=torch.cat([noise.uniforms for noise in single]),
            blotches=torch.cat([noise.blotches for noise in single]),
            grain=torch.cat([noise.grain for noise in single]),
        )


def render(
    captions: Sequence[Caption], style: float, seeds: Sequence[int]
) -> Float[Tensor, "batch 3 32 32"]:
    """Draw one picture for each caption.

    Args:
        captions: Contents of the pictures.
        style: 0 is dull, 1 is the style of the reference images.
        seeds: One per caption. A picture depends only on its caption, style and seed.

    Returns:
        RGB pictures in [0, 1].

    Raises:
        ValueError: If captions and seeds differ in number or the style is outside [0, 1].
    """
    if len(captions) != len(seeds):
        raise ValueError(f"{len(captions)} captions have {len(seeds)} seeds; give one per caption")
    if not 0.0 <= style <= 1.0:
        raise ValueError(f"style={style}: must be in [0, 1]")
    # Without type and shape, an empty list would give a float tensor of one axis.
    labels = torch.tensor([caption.labels for caption in captions], dtype=torch.int64).reshape(
        -1, 5
    )
    return render_labels(
        labels, torch.full((len(captions),), style), PictureNoise.from_seeds(seeds)
    )


def render_labels(
    labels: Int[Tensor, "batch 5"], style: Float[Tensor, "batch"], noise: PictureNoise
) -> Float[Tensor, "batch 3 32 32"]:
    """Draw pictures from attribute indices, the fast path for training data.

    Args:
        labels: `Caption.labels` of each picture.
        style: One style in [0, 1] per picture.
        noise: The random part of each picture.

    Returns:
        RGB pictures in [0, 1].
    """
    size, colour, shape, background, position = labels.unbind(1)
    crisp = style[:, None, None, None]
    jitter = noise.uniforms * 2.0 - 1.0
    centers = _CENTER_PIXELS[position] + jitter[:, :2]
    radius = _RADIUS_PIXELS[size] * (1.0 + 0.06 * jitter[:, 2])
    blotches = functional.interpolate(
        noise.blotches, size=RESOLUTION_PIXELS, mode="bicubic", align_corners=False
    )
    # At most 0.08 radians, 5 degrees: at 45 degrees a square would be a diamond.
    x, y = _rotated_grid(centers, 0.08 * jitter[:, 3])
    wobble = 0.5 * (1.0 - style)[:, None, None] * blotches[:, 3]
    distance = (_signed_distance(shape, x, y, radius) + wobble)[:, None]
    shadow_distance = _signed_distance(shape, x - 1.6, y - 2.0, radius)[:, None]

    canvas = _background(_BACKGROUND_RGB[background], crisp)
    canvas = canvas * (1.0 - 0.5 * crisp * torch.sigmoid(-shadow_distance / 0.7))
    paint = _paint(_SHAPE_RGB[colour], x, y, radius, distance, crisp)
    # Dull shapes are partly transparent.
    paint = paint + 0.28 * (1.0 - crisp) * (canvas - paint)
    coverage = torch.sigmoid(-distance / (0.85 - 0.65 * crisp))
    # Edges are softened by the signed distance, which acts as antialiasing at 32 x 32 pixels.
    picture = canvas + coverage * (paint - canvas)
    dull = 1.0 - crisp
    picture = picture + dull * (0.035 * blotches[:, :3] + 0.025 * noise.grain)
    return picture.clamp(0.0, 1.0)


def _rotated_grid(
    centers: Float[Tensor, "batch 2"], angle: Float[Tensor, "batch"]
) -> tuple[Float[Tensor, "batch 32 32"], Float[Tensor, "batch 32 32"]]:
    # Centres of pixels.
    pixels = torch.arange(RESOLUTION_PIXELS, dtype=torch.float32) + 0.5
    x = pixels[None, None, :] - centers[:, 0, None, None]
    y = pixels[None, :, None] - centers[:, 1, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * x + sin * y, cos * y - sin * x


def _signed_distance(
    shape: Int[Tensor, "batch"],
    x: Float[Tensor, "batch 32 32"],
    y: Float[Tensor, "batch 32 32"],
    radius: Float[Tensor, "batch"],
) -> Float[Tensor, "batch 32 32"]:
    r = radius[:, None, None]
    length = torch.sqrt(x * x + y * y + 1e-6)
    wide = torch.maximum(x.abs() - r, y.abs() - 0.37 * r)
    tall = torch.maximum(x.abs() - 0.37 * r, y.abs() - r)
    slope = torch.maximum(0.866 * x.abs() - 0.5 * y, y) - 0.5 * r
    # In the order of `SHAPES`.
    distances = torch.stack(
        [
            length - r,
            torch.maximum(x.abs(), y.abs()) - 0.86 * r,
            slope - 0.08 * r,
            (x.abs() + y.abs() - 1.15 * r) * 0.7071,
            torch.minimum(wide, tall),
            (length - 0.74 * r).abs() - 0.26 * r,
        ]
    )
    # All six shapes are computed for each picture: selecting first would need a loop over the
    # batch.
    return distances[shape, torch.arange(len(shape))]


def _background(
    rgb: Float[Tensor, "batch 3"], crisp: Float[Tensor, "batch 1 1 1"]
) -> Float[Tensor, "batch 3 32 32"]:
    pixels = torch.arange(RESOLUTION_PIXELS, dtype=torch.float32)
    across, down = pixels[None, :], pixels[:, None]
    stripes = 0.055 * torch.tanh(3.0 * torch.sin((across + down) * (torch.pi / 4.0)))
    grade = 0.16 * (0.5 - down / RESOLUTION_PIXELS)
    flat = rgb[:, :, None, None]
    washed_out = 0.72 * flat + 0.28 * 0.5
    return washed_out + crisp * (flat * 0.9 + 0.05 + stripes + grade - washed_out)


def _paint(
    rgb: Float[Tensor, "batch 3"],
    x: Float[Tensor, "batch 32 32"],
    y: Float[Tensor, "batch 32 32"],
    radius: Float[Tensor, "batch"],
    distance: Float[Tensor, "batch 1 32 32"],
    crisp: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch 3 32 32"]:
    r = radius[:, None, None]
    flat = rgb[:, :, None, None]
    washed_out = 0.8 * flat + 0.2 * 0.5
    shading = (1.0 - 0.28 * (x + y) / r)[:, None]
    spot = torch.exp(-((x + 0.4 * r) ** 2 + (y + 0.45 * r) ** 2) / (0.18 * r) ** 2)[:, None]
    shaded = flat * shading + 0.75 * spot * (1.0 - flat)
    outline = torch.sigmoid((distance + 1.3) / 0.2)
    inked = shaded + outline * (0.22 * flat - shaded)
    return washed_out + crisp * (inked - washed_out)
