"""Base class of the frozen vision transformers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from advgrpo.config.base import Weights
from advgrpo.errors import ConfigError
from advgrpo.models.backbones.loading import fingerprint, load_frozen, weights_files
from advgrpo.models.backbones.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    read_preprocessing,
)
from advgrpo.storage.fetch import local_folder


class Vit(ABC):
    """A frozen vision transformer.

    Args:
        weights: Location of the model. Normalization and interpolation are read from the folder's
            `preprocessor_config.json`; without one they are those of the architecture's authors.
        resolution_pixels: Side length that images are resized to; a multiple of the patch size.
        device: Device of the model.

    Attributes:
        width: Dimension of a token.
        patches: Number of patch tokens of an image.
        blocks: Number of transformer blocks.
        fingerprint: Hash of the weights and the preprocessing; equal fingerprints mean equal
            features.

    Raises:
        WeightsError: If the weights are missing, damaged or of another architecture.
        ConfigError: If the resolution is not a multiple of the patch size.
    """

    title: ClassVar[str]
    model_class: ClassVar[type[PreTrainedModel]]
    model_types: ClassVar[tuple[str, ...]]
    """Accepted values of `model_type` in `config.json`."""

    usual_preprocessing: ClassVar[Preprocessing] = Preprocessing(0, IMAGENET_MEAN, IMAGENET_STD)
    """Used without `preprocessor_config.json`; its resolution is ignored."""

    def __init__(self, weights: Weights, *, resolution_pixels: int, device: torch.device) -> None:
        folder = local_folder(weights)
        self._model: Any = load_frozen(
            self.model_class, folder, model_type=self.model_types, device=device
        )
        settings = self._model.config
        patch = int(settings.patch_size)
        # The patch convolution would drop the remaining pixels silently.
        if resolution_pixels % patch:
            raise ConfigError(
                f"resolution_pixels={resolution_pixels} is not a multiple of the {patch} pixels of "
                f"a patch of the {self.title} in {folder}",
                repair=f"set it to {max(1, round(resolution_pixels / patch)) * patch}",
            )
        usual = self.usual_preprocessing
        self._preprocessing = read_preprocessing(
            folder, resolution_pixels=resolution_pixels
        ) or Preprocessing(resolution_pixels, usual.mean, usual.std, usual.interpolation)
        self.device = device
        self.width = int(settings.hidden_size)
        # From the resolution in use; the model's own number is that of its training resolution.
        self.patches = (resolution_pixels // patch) ** 2
        self.blocks = int(settings.num_hidden_layers)
        self.fingerprint = fingerprint(weights_files(folder), self._preprocessing)

    @torch.no_grad()
    def tokens(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch token feature"]:
        """Embed images.

        Args:
            images: RGB in [0, 1]; all pass the backbone in one batch.

        Returns:
            Tokens after the final norm, on the backbone's device: one of the whole image, then the
            patches row by row, without registers.
        """
        return self._final(self._run(images))

    @torch.no_grad()
    def layer_tokens(
        self, images: Float[Tensor, "batch 3 height width"], layers: Sequence[int]
    ) -> list[Float[Tensor, "batch token feature"]]:
        """Embed images by the outputs of some of the blocks.

        Args:
            images: RGB in [0, 1]; all pass the backbone in one batch.
            layers: Blocks, counted from 1; the last one gives the result of `tokens`.

        Returns:
            Tokens of each, in the order of `tokens` and after the same final norm, which the
            authors of DINOv2 apply to middle layers too.
        """
        output = self._run(images, output_hidden_states=True)
        return [
            self._final(output)
            # The last block has its own path: only there SigLIP has pooled the patches into one
            # token.
            if layer == self.blocks
            else self._arrange(self._norm(output.hidden_states[layer]))
            for layer in layers
        ]

    def _run(self, images: Tensor, **options: bool) -> Any:  # noqa: ANN401 - a library's output
        return self._model(pixel_values=self._preprocessing(images.to(self.device)), **options)

    def _final(self, output: Any) -> Tensor:  # noqa: ANN401 - a library's output
        return self._arrange(output.last_hidden_state)

    @property
    @abstractmethod
    def _norm(self) -> nn.Module:
        """The norm after the last block."""

    @abstractmethod
    def _arrange(self, hidden: Tensor) -> Tensor:
        """Return a token of the whole image followed by the patches, and nothing else."""
