"""The reward being trained."""

from advgrpo.discriminator.base import Discriminator, Features
from advgrpo.discriminator.build import build_discriminator
from advgrpo.discriminator.dino import DinoDiscriminator
from advgrpo.discriminator.pickscore import PickScoreDiscriminator
from advgrpo.discriminator.saved import load_discriminator, save_discriminator

__all__ = [
    "DinoDiscriminator",
    "Discriminator",
    "Features",
    "PickScoreDiscriminator",
    "build_discriminator",
    "load_discriminator",
    "save_discriminator",
]
