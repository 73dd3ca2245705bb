"""The frozen vision backbones that a discriminator can use."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.base import Weights
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.dino import Dino3Backbone, DinoBackbone, DinoWithRegistersBackbone
from advgrpo.models.backbones.loading import model_type_of
from advgrpo.models.backbones.siglip import Siglip2Backbone, SiglipBackbone
from advgrpo.models.backbones.vit import Vit
from advgrpo.storage.fetch import local_folder

BACKBONES: tuple[type[Vit], ...] = (
    DinoBackbone,
    DinoWithRegistersBackbone,
    Dino3Backbone,
    SiglipBackbone,
    Siglip2Backbone,
)


@runtime_checkable
class VisionBackbone(Protocol):
    """A frozen encoder of images into tokens: one of the whole image, then patches row by row."""

    device: torch.device
    width: int
    """Dimension of a token."""

    patches: int
    """Number of patch tokens of an image."""

    blocks: int
    """Number of transformer blocks."""

    fingerprint: str
    """Hash of the weights and the preprocessing; equal fingerprints mean equal features."""

    def tokens(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch token feature"]:
        """Embed RGB images in [0, 1] by the output of the whole backbone."""
        ...

    def layer_tokens(
        self, images: Float[Tensor, "batch 3 height width"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch token feature"]]:
        """Embed RGB images in [0, 1] by the output of some blocks, counted from 1."""
        ...


def load_vision_backbone(
    weights: Weights, *, resolution_pixels: int, device: torch.device
) -> VisionBackbone:
    """Load a backbone of the architecture that its `config.json` names.

    Args:
        weights: Location of the model.
        resolution_pixels: Side length that images are resized to; a multiple of the patch size.
        device: Device of the model.

    Raises:
        WeightsError: If the weights are missing or damaged, or their architecture is not one of
            `BACKBONES`.
        ConfigError: If the resolution is not a multiple of the patch size.
    """
    folder = local_folder(weights)
    found = model_type_of(folder)
    # By `model_type` rather than by a setting, so that settings cannot contradict the weights.
    for backbone in BACKBONES:
        if found in backbone.model_types:
            return backbone(weights, resolution_pixels=resolution_pixels, device=device)
    known = ", ".join(f"{b.title} ({' or '.join(b.model_types)})" for b in BACKBONES)
    raise WeightsError(
        f"the model in {folder} is of type {found!r}, which no discriminator supports",
        repair=f"set discriminator.weights to one of {known}",
    )
