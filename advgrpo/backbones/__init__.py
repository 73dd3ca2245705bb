"""Frozen vision and text encoders, and what is done to an image before them."""

from advgrpo.backbones.clip import ClipBackbone, ClipTextEncoder
from advgrpo.backbones.dino import DinoBackbone
from advgrpo.backbones.preprocessing import Preprocessing

__all__ = ["ClipBackbone", "ClipTextEncoder", "DinoBackbone", "Preprocessing"]
