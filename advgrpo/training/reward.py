"""The reward of a rollout: the discriminator and frozen scorers."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.advantage import combined_rewards
from advgrpo.config.reward import DISCRIMINATOR, RewardConfig
from advgrpo.data.image_loading import load_images
from advgrpo.models.backbones.precision import frozen_products
from advgrpo.models.discriminators.base import Discriminator, Features
from advgrpo.models.scorers.base import Scorer, check_metrics_cover
from advgrpo.models.scorers.critic import share_in_order
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.training.reference_features import ReferenceFeatures


class Reward:
    """Scores images by each term of the reward.

    Args:
        config: The terms and their weights.
        discriminator: The reward being trained.
        scorers: The frozen scorer of each term, by the term's name.
    """

    def __init__(
        self, config: RewardConfig, discriminator: Discriminator, scorers: Mapping[str, Scorer]
    ) -> None:
        self.weights = [term.weight for term in config.terms]
        self.names: list[str] = [term.name for term in config.terms]
        self.standardize = config.standardize
        self._discriminator = discriminator
        self._precision = config.frozen_precision
        self._terms = config.scorer_terms
        self._scorers = {term.name: scorers[term.name] for term in self._terms.values()}

    @property
    def has_scorers(self) -> bool:
        """Whether frozen scorers are part of it."""
        return bool(self._scorers)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts whose images a frozen scorer cannot score.

        Raises:
            ConfigError: Names the term, the number of prompts and the reason.
        """
        for setting, term in self._terms.items():
            scorer = self._scorers[term.name]
            check_metrics_cover(term.metric_name, [scorer], prompts, setting=setting)

    def values(
        self,
        images: Float[Tensor, "batch 3 height width"],
        features: Features,
        prompts: Sequence[str],
    ) -> dict[str, Float[Tensor, "batch"]]:
        """Score each image by the discriminator and by each frozen scorer, on the CPU.

        Args:
            images: RGB in [0, 1].
            features: The discriminator's, of the same images, without prompts.
            prompts: One per image.
        """
        return {
            # Computed even if no term of the reward needs it: held-out metrics always include it.
            DISCRIMINATOR: self.of_discriminator(features, prompts),
            **self.of_scorers(images, prompts),
        }

    def terms(
        self,
        images: Float[Tensor, "batch 3 height width"],
        features: Features,
        prompts: Sequence[str],
    ) -> Float[Tensor, "batch term"]:
        """Score each image by each term, in the order of `names`, as `values` does."""
        values = self.values(images, features, prompts)
        return torch.stack([values[name] for name in self.names], dim=1)

    def terms_again(
        self,
        terms: Float[Tensor, "batch term"],
        features: Features,
        prompts: Sequence[str],
    ) -> Float[Tensor, "batch term"]:
        """Score images again, by the discriminator as it is now; frozen scorers would repeat.

        Args:
            terms: What `terms` returned for them.
            features: The discriminator's, without prompts.
            prompts: One per image.
        """
        now = self.of_discriminator(features, prompts)
        columns = zip(self.names, terms.unbind(dim=1), strict=True)
        return torch.stack(
            [now if name == DISCRIMINATOR else before for name, before in columns], dim=1
        )

    def of_discriminator(
        self, features: Features, prompts: Sequence[str]
    ) -> Float[Tensor, "batch"]:
        """Score images by the discriminator as it is now, on the CPU."""
        with_prompts = self._discriminator.with_prompts(features, prompts)
        # Float32, so that terms of scorers in other precisions can be stacked.
        return self._discriminator.rewards(with_prompts).float().cpu()

    def of_scorers(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> dict[str, Float[Tensor, "batch"]]:
        """Score images by each frozen scorer, on the CPU."""
        values: dict[str, Tensor] = {}
        with frozen_products(self._precision):
            for term in self._terms.values():
                scores = self._scorers[term.name].score(images, prompts)
                values[term.name] = scores[term.metric_without_prefix].float().cpu()
        return values

    def order(
        self,
        generated: Mapping[str, Float[Tensor, "prompt"]],
        reference: Mapping[str, Float[Tensor, "prompt variation"]],
    ) -> dict[str, float]:
        """Return how often the reward scores reference images above generated images.

        Args:
            generated: Values of one image of each prompt, as `values` gives them.
            reference: Values of reference images of the same prompts.

        Returns:
            Share of pairs in order, for the combined terms as `reward` and for each term.
        """
        # The generated image is the first column; standardization must see both kinds together.
        pairs: dict[str, Tensor] = {
            name: torch.cat([generated[name][:, None], reference[name]], dim=1)
            for name in self.names
        }
        together = combined_rewards(
            list(pairs.values()), self.weights, standardize=self.standardize
        )
        return {
            name: share_in_order(values[:, 0], values[:, 1:])
            for name, values in [("reward", together), *pairs.items()]
        }


class ReferenceRewards:
    """Rewards of the reference images of held-out prompts, term by term.

    Args:
        reward: The run's.
        references: Features of the reference images.
        images: The reference images.
        prompts: The training prompts.
        prompt_ids: The held-out prompts.
    """

    def __init__(
        self,
        reward: Reward,
        references: ReferenceFeatures,
        images: ReferenceImageSet,
        prompts: PromptSet,
        prompt_ids: Sequence[int],
    ) -> None:
        self._reward, self._variations = reward, references.held_out_variations
        ids = torch.tensor(prompt_ids).repeat_interleave(self._variations)
        numbers = torch.arange(self._variations).repeat(len(prompt_ids))
        self._features = references.take(ids, numbers)
        self._texts = [prompts.texts[index] for index in ids.tolist()]
        self._frozen: dict[str, Tensor] = {}
        if reward.has_scorers:
            frozen = [
                # One image at a time: this runs once, and a batch of all reference images may not
                # fit.
                reward.of_scorers(load_images(images, text, [number]), [text])
                for text, number in zip(self._texts, numbers.tolist(), strict=True)
            ]
            self._frozen = {name: torch.cat([f[name] for f in frozen]) for name in frozen[0]}

    def values(self) -> dict[str, Float[Tensor, "prompt variation"]]:
        """Score them by the discriminator as it is now and by the frozen scorers."""
        now = self._reward.of_discriminator(self._features, self._texts)
        return {
            name: values.view(-1, self._variations)
            for name, values in {DISCRIMINATOR: now, **self._frozen}.items()
        }
