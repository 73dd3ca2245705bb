"""Make the discriminator that the settings ask for."""

import torch

from advgrpo.config import DinoDiscriminatorConfig, DiscriminatorConfig
from advgrpo.models.discriminators.base import Discriminator
from advgrpo.models.discriminators.dino import DinoDiscriminator
from advgrpo.models.discriminators.pickscore import PickScoreDiscriminator


def build_discriminator(
    config: DiscriminatorConfig, device: torch.device, *, seed: int
) -> Discriminator:
    """Load a discriminator's frozen part and make its trained one.

    Args:
        config: Its settings.
        device: Where it works.
        seed: Of whatever starts at random.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture.
        ConfigError: If the settings ask for what the model does not have.
    """
    if isinstance(config, DinoDiscriminatorConfig):
        return DinoDiscriminator(config, device, seed=seed)
    return PickScoreDiscriminator(config, device)
