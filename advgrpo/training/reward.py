"""The reward of a rollout: the discriminator and, beside it, frozen scorers."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.training import PickScoreReward, RewardConfig
from advgrpo.discriminator.base import Discriminator, Features
from advgrpo.scorers.pickscore import PickScore


class Reward:
    """Scores images by each term of the reward.

    Args:
        config: The terms and their weights.
        discriminator: The trained one.
        device: Where frozen scorers work.
    """

    def __init__(
        self, config: RewardConfig, discriminator: Discriminator, device: torch.device
    ) -> None:
        self.weights = [term.weight for term in config.terms]
        self.names = [term.type for term in config.terms]
        self.standardize = config.standardize
        self._discriminator = discriminator
        self._scorers = {
            term.type: PickScore(term.weights, device)
            for term in config.terms
            if isinstance(term, PickScoreReward)
        }

    def terms(
        self,
        images: Float[Tensor, "batch 3 height width"],
        features: Features,
        prompts: Sequence[str],
    ) -> Float[Tensor, "batch term"]:
        """Score each image by each term, in the order of `names`, on the CPU.

        Args:
            images: RGB in [0, 1].
            features: The discriminator's, of the same images, without prompts.
            prompts: One per image.
        """
        columns = []
        for name in self.names:
            if name in self._scorers:
                (values,) = self._scorers[name].score(images, prompts).values()
            else:
                values = self._discriminator.rewards(
                    self._discriminator.with_prompts(features, prompts)
                )
            columns.append(values.float().cpu())
        return torch.stack(columns, dim=1)
