"""DINOv2, arXiv:2304.07193: the eyes of the discriminator and of the distance measures."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Dinov2Model

from advgrpo.backbones.loading import fingerprint, load_frozen, weights_files
from advgrpo.backbones.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    read_preprocessing,
)
from advgrpo.config import Weights
from advgrpo.errors import ConfigError
from advgrpo.storage import local_folder


class DinoBackbone:
    """A frozen DINOv2.

    Args:
        weights: Where it lies. Mean and standard deviation of pixels are read from the folder's
            `preprocessor_config.json`; without one they are those of ImageNet.
        resolution_pixels: Side length that images are resized to; a multiple of the patch size.
        device: Where it runs.

    Attributes:
        width: Numbers of a token.
        patches: Patch tokens of an image.
        fingerprint: Hash of the weights and the preprocessing: equal fingerprints mean equal
            features.

    Raises:
        WeightsError: If the weights are missing, damaged or no DINOv2.
        ConfigError: If the resolution is not a multiple of the patch size.
    """

    def __init__(self, weights: Weights, *, resolution_pixels: int, device: torch.device) -> None:
        folder = local_folder(weights)
        self._model = load_frozen(Dinov2Model, folder, model_type="dinov2", device=device)
        settings: Any = self._model.config
        patch = int(settings.patch_size)
        if resolution_pixels % patch:
            raise ConfigError(
                f"resolution_pixels={resolution_pixels} is not a multiple of the {patch} pixels of "
                f"a patch of the DINOv2 in {folder}",
                repair=f"set it to {max(1, round(resolution_pixels / patch)) * patch}",
            )
        self._preprocessing = read_preprocessing(
            folder, resolution_pixels=resolution_pixels
        ) or Preprocessing(resolution_pixels, IMAGENET_MEAN, IMAGENET_STD)
        self.device = device
        self.width = int(settings.hidden_size)
        self.patches = (resolution_pixels // patch) ** 2
        self.fingerprint = fingerprint(weights_files(folder), self._preprocessing)

    @torch.no_grad()
    def tokens(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch token feature"]:
        """Embed images.

        Args:
            images: RGB in [0, 1]; all pass the backbone at once.

        Returns:
            Tokens after the final norm, on the backbone's device: the class token, then the
            patches row by row.
        """
        pixels = self._preprocessing(images.to(self.device))
        tokens: Tensor = self._model(pixel_values=pixels).last_hidden_state
        return tokens
