"""Frozen vision and text encoders, with the preprocessing of their images."""

from advgrpo.models.backbones.clip import ClipBackbone, ClipTextEncoder
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.backbones.preprocessing import Preprocessing
from advgrpo.models.backbones.vision import VisionBackbone, load_vision_backbone

__all__ = [
    "ClipBackbone",
    "ClipTextEncoder",
    "DinoBackbone",
    "Preprocessing",
    "VisionBackbone",
    "load_vision_backbone",
]
