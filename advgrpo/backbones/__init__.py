"""Frozen vision and text encoders, and what is done to an image before them."""

from advgrpo.backbones.clip import ClipBackbone, ClipTextEncoder
from advgrpo.backbones.dino import DinoBackbone
from advgrpo.backbones.preprocessing import Preprocessing
from advgrpo.backbones.vision import VisionBackbone, load_vision_backbone

__all__ = [
    "ClipBackbone",
    "ClipTextEncoder",
    "DinoBackbone",
    "Preprocessing",
    "VisionBackbone",
    "load_vision_backbone",
]
