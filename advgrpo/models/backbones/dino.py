"""DINOv2 and DINOv3 backbones."""

import torch
from torch import Tensor, nn
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel

from advgrpo.models.backbones.vit import Vit


class DinoBackbone(Vit):
    """A frozen DINOv2, arXiv:2304.07193."""

    title = "DINOv2"
    model_class = Dinov2Model
    model_types = ("dinov2",)

    @property
    def _norm(self) -> nn.Module:
        norm: nn.Module = self._model.layernorm
        return norm

    def _arrange(self, hidden: Tensor) -> Tensor:
        return hidden


class DinoWithRegistersBackbone(Vit):
    """A frozen DINOv2 with registers, arXiv:2309.16588."""

    title = "DINOv2 with registers"
    model_class = Dinov2WithRegistersModel
    model_types = ("dinov2_with_registers",)

    @property
    def _norm(self) -> nn.Module:
        norm: nn.Module = self._model.layernorm
        return norm

    def _arrange(self, hidden: Tensor) -> Tensor:
        return without_registers(hidden, int(self._model.config.num_register_tokens))


class Dino3Backbone(Vit):
    """A frozen DINOv3 vision transformer, arXiv:2508.10104."""

    title = "DINOv3"
    model_class = DINOv3ViTModel
    model_types = ("dinov3_vit",)

    @property
    def _norm(self) -> nn.Module:
        # Named `layernorm` in DINOv2.
        norm: nn.Module = self._model.norm
        return norm

    def _arrange(self, hidden: Tensor) -> Tensor:
        return without_registers(hidden, int(self._model.config.num_register_tokens))


def without_registers(hidden: Tensor, registers: int) -> Tensor:
    """Remove the registers, which are between the class token and the patches."""
    # Registers hold global information at no position, so they are not patches.
    return torch.cat([hidden[:, :1], hidden[:, 1 + registers :]], dim=1)
