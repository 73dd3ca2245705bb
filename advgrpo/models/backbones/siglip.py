"""SigLIP and SigLIP 2 backbones."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Siglip2VisionModel, SiglipVisionModel

from advgrpo.models.backbones.preprocessing import Preprocessing
from advgrpo.models.backbones.vit import Vit

_HALF = (0.5, 0.5, 0.5)


class SiglipBackbone(Vit):
    """The vision half of a frozen SigLIP, arXiv:2303.15343, or of a SigLIP 2 of one resolution.

    It has no class token: the token of the whole image is the output of the attention pooling, or
    the mean of the patches in middle layers, which have no pooling.
    """

    title = "SigLIP"
    model_class = SiglipVisionModel
    model_types = ("siglip", "siglip_vision_model")
    usual_preprocessing = Preprocessing(0, _HALF, _HALF)

    @property
    def _norm(self) -> nn.Module:
        norm: nn.Module = self._model.post_layernorm
        return norm

    def _run(self, images: Tensor, **options: bool) -> Any:  # noqa: ANN401 - a library's output
        # Position embeddings of the training resolution, resized to this one.
        return super()._run(images, interpolate_pos_encoding=True, **options)

    def _final(self, output: Any) -> Tensor:  # noqa: ANN401 - a library's output
        # Checkpoints may omit the pooling head; the mean of the patches then stands in for it.
        if output.pooler_output is None:
            return self._arrange(output.last_hidden_state)
        # Prepended, so that position 0 is the whole image for all backbones.
        return torch.cat([output.pooler_output[:, None], output.last_hidden_state], dim=1)

    def _arrange(self, hidden: Tensor) -> Tensor:
        return torch.cat([hidden.mean(dim=1, keepdim=True), hidden], dim=1)


class Siglip2Backbone(SiglipBackbone):
    """The vision half of a frozen SigLIP 2 of any resolution (NaFlex), arXiv:2502.14786."""

    title = "SigLIP 2"
    model_class = Siglip2VisionModel
    model_types = ("siglip2", "siglip2_vision_model")
    usual_preprocessing = Preprocessing(0, _HALF, _HALF, "bilinear")

    def _run(self, images: Tensor, **options: bool) -> Any:  # noqa: ANN401 - a library's output
        pixels = self._preprocessing(images.to(self.device))
        batch, channels, side, _ = pixels.shape
        patch = int(self._model.config.patch_size)
        count = side // patch
        # The model takes flattened patches: rows of pixels, with the channels innermost.
        parts = pixels.view(batch, channels, count, patch, count, patch).permute(0, 2, 4, 3, 5, 1)
        return self._model(
            pixel_values=parts.reshape(batch, count * count, -1),
            pixel_attention_mask=torch.ones(batch, count * count, device=self.device).int(),
            # On the CPU: the model reads the sizes as Python numbers to resize position embeddings.
            spatial_shapes=torch.tensor([[count, count]] * batch),
            **options,
        )
