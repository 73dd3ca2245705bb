"""Which measures a run's reward was trained on, and which see through the same eyes."""

from collections.abc import Mapping
from dataclasses import dataclass

from advgrpo.config.base import Weights
from advgrpo.config.discriminator import DiscriminatorConfig, PickScoreDiscriminatorConfig
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.reward import RewardConfig
from advgrpo.config.scorers import weights_of

DISTANCE_FAMILIES = ("distance.frechet", "distance.kernel", "manifold", "diversity")
"""Measures in the feature space of `evaluation.distance`, by name or by their first part."""


@dataclass(frozen=True)
class Independence:
    """How far a run's measures are from what rewarded it."""

    trained_on: frozenset[str]
    """Scorers that the reward was trained on: they prove little."""

    related: Mapping[str, str]
    """Measures, or scorers, that the reward was not trained on but that share a frozen part with
    it, and what they share in words: they prove less than independent ones."""

    trained_by: Mapping[str, str]
    """Each scorer of `trained_on` -> the setting that makes the reward learn from it."""


def independence(
    discriminator: DiscriminatorConfig, reward: RewardConfig, evaluation: EvaluationConfig
) -> Independence:
    """Tell from the settings how far each measure is from the reward.

    The reward was trained on a scorer if a term of the reward, or the tuned discriminator, is of
    its type or has its weights: a tuned model began as the frozen one, and a PickScore at another
    location may be the same. A measure is related if the weights that it sees through are those of
    the frozen backbone below the discriminator's head. Equal weights under two locations cannot be
    known here.
    """
    types = {term.type: setting for setting, term in reward.scorers.items()}
    rewarding = {
        _place(weights): setting
        for setting, term in reward.scorers.items()
        for weights in weights_of(term)
    }
    backbone = _place(discriminator.weights)
    if isinstance(discriminator, PickScoreDiscriminatorConfig):
        types.setdefault("pickscore", "discriminator")
        rewarding.setdefault(backbone, "discriminator")
    trained_by: dict[str, str] = {}
    related: dict[str, str] = {}
    for scorer in evaluation.scorers:
        eyes = [_place(weights) for weights in weights_of(scorer)]
        learned = [rewarding[place] for place in eyes if place in rewarding]
        if scorer.type in types or learned:
            trained_by[scorer.type] = types.get(scorer.type) or learned[0]
        elif backbone in eyes:
            related[scorer.type] = "sees through the discriminator's backbone"
    distance = _place(evaluation.distance.weights)
    if distance == backbone:
        same = "in the features of the discriminator's backbone"
        related |= dict.fromkeys(DISTANCE_FAMILIES, same)
    elif distance in rewarding:
        related |= dict.fromkeys(DISTANCE_FAMILIES, "in the features of a model of the reward")
    if evaluation.cmmd is not None and _place(evaluation.cmmd.weights) in rewarding:
        related["distance.cmmd"] = "in the features of a model of the reward"
    return Independence(frozenset(trained_by), related, trained_by)


def _place(weights: Weights) -> tuple[str, str | None, str]:
    """Write a location so that two spellings of it compare equal."""
    return weights.location.rstrip("/"), weights.revision, weights.subfolder.strip("/")
