"""Construction of a discriminator from its settings."""

import torch

from advgrpo.config.discriminator import DinoDiscriminatorConfig, DiscriminatorConfig
from advgrpo.models.discriminators.base import Discriminator
from advgrpo.models.discriminators.dino import DinoDiscriminator
from advgrpo.models.discriminators.pickscore import PickScoreDiscriminator


def build_discriminator(
    config: DiscriminatorConfig, device: torch.device, *, seed: int
) -> Discriminator:
    """Load a discriminator's frozen part and initialize its trained part.

    Args:
        config: Its settings.
        device: Device of the discriminator.
        seed: Of random start values.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture.
        ConfigError: If the settings name layers or patches that the model does not have.
    """
    if isinstance(config, DinoDiscriminatorConfig):
        return DinoDiscriminator(config, device, seed=seed)
    # Without a seed: its trained blocks start from the published weights.
    return PickScoreDiscriminator(config, device)
