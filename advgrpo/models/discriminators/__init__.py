"""Discriminators, which are the reward being trained."""

from advgrpo.models.discriminators.base import Discriminator, Features
from advgrpo.models.discriminators.build import build_discriminator
from advgrpo.models.discriminators.dino import DinoDiscriminator
from advgrpo.models.discriminators.pickscore import PickScoreDiscriminator
from advgrpo.models.discriminators.saving import load_discriminator, save_discriminator

__all__ = [
    "DinoDiscriminator",
    "Discriminator",
    "Features",
    "PickScoreDiscriminator",
    "build_discriminator",
    "load_discriminator",
    "save_discriminator",
]
