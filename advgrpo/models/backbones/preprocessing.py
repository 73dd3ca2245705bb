"""Preprocessing of images on tensors, as the Hugging Face processors do it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from advgrpo.errors import WeightsError
from advgrpo.strict_json import load_json_object

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PREPROCESSOR_FILE = "preprocessor_config.json"

Interpolation = Literal["bicubic", "bilinear"]
_PILLOW: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
"""Value of `resample`, one of Pillow's constants -> interpolation of torch."""


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and normalization of a backbone's images.

    Args:
        resolution_pixels: Height and width that images are resized to.
        mean: Of each colour channel, in [0, 1].
        std: Of each colour channel, in the same unit.
        interpolation: Filter of the resizing, which is antialiased.
    """

    resolution_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"

    def __call__(
        self, images: Float[Tensor, "batch 3 side side"]
    ) -> Float[Tensor, "batch 3 resolution resolution"]:
        """Resize and normalize square RGB images in [0, 1]; the result is float32."""
        # Built for each batch: the dataclass stays hashable, and its `repr` is part of
        # fingerprints.
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1)
        return (resize(images, self.resolution_pixels, self.interpolation) - mean) / std


def resize(
    images: Float[Tensor, "batch 3 side side"],
    resolution_pixels: int,
    interpolation: Interpolation = "bicubic",
) -> Float[Tensor, "batch 3 resolution resolution"]:
    """Resize square images by antialiased interpolation.

    Args:
        images: RGB in [0, 1], any floating type.
        resolution_pixels: Height and width of the result.
        interpolation: The filter.

    Returns:
        Float32 in [0, 1], equal to Pillow's result up to its rounding to 8 bits. Images that have
        the size already keep their values.
    """
    # torch has no antialiased kernel for bfloat16 on CPU; half precision would also shift features.
    images = images.float()
    if images.shape[-2:] == (resolution_pixels, resolution_pixels):
        return images
    # Pillow resizes rows first, and clips the filter's overshoot after each of the two passes.
    for size in ((images.shape[-2], resolution_pixels), (resolution_pixels, resolution_pixels)):
        # Without `antialias`, downscaled pixels differ from Pillow's by more than half of their
        # range.
        images = functional.interpolate(images, size, mode=interpolation, antialias=True)
        images = images.clamp(0, 1)
    return images


def read_preprocessing(folder: Path, *, resolution_pixels: int) -> Preprocessing | None:
    """Read mean, standard deviation and interpolation from a model folder.

    Args:
        folder: Folder in `save_pretrained` layout.
        resolution_pixels: Height and width to resize to; the file's own size is not used.

    Returns:
        The preprocessing, or None if the folder has no `preprocessor_config.json`. Without
        `resample` the interpolation is bicubic.

    Raises:
        WeightsError: If the file is damaged, or names another interpolation.
    """
    path = folder / PREPROCESSOR_FILE
    if not path.is_file():
        return None
    try:
        settings = load_json_object(path.read_text("utf-8"))
        mean = [float(value) for value in settings["image_mean"]]
        std = [float(value) for value in settings["image_std"]]
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise WeightsError(
            f"{path} has no image_mean and image_std: {error!r}",
            repair=f"copy {PREPROCESSOR_FILE} from where the model came from",
        ) from error
    # Python's JSON accepts NaN, and NaN passes a comparison such as `min(std) <= 0`.
    finite = all(map(math.isfinite, [*mean, *std]))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or not finite:
        raise WeightsError(
            f"{path} has image_mean {mean} and image_std {std}; RGB needs three of each, and "
            "image_std above 0",
            repair=f"copy {PREPROCESSOR_FILE} from where the model came from",
        )
    # 3 is the default of the processors of CLIP and DINOv2.
    resample = settings.get("resample", 3)
    # The type first: a list is not hashable and would raise TypeError in the lookup.
    if not isinstance(resample, int) or resample not in _PILLOW:
        raise WeightsError(
            f"{path} has resample {resample!r}; supported are 2 (bilinear) and 3 (bicubic)",
            repair="use a model that was trained with one of these",
        )
    return Preprocessing(
        resolution_pixels,
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
        _PILLOW[resample],
    )
