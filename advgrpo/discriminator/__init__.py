"""The reward being trained."""

from advgrpo.discriminator.base import Discriminator, Features
from advgrpo.discriminator.dino import DinoDiscriminator
from advgrpo.discriminator.saved import load_discriminator, save_discriminator

__all__ = [
    "DinoDiscriminator",
    "Discriminator",
    "Features",
    "load_discriminator",
    "save_discriminator",
]
