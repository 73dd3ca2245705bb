"""Dependence of metrics on the reward: trained on them, or related by shared weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from advgrpo.config.base import Weights
from advgrpo.config.discriminator import DiscriminatorConfig, PickScoreDiscriminatorConfig
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.reward import RewardConfig

DISTANCE_METRICS = ("distance.frechet", "distance.kernel", "manifold", "diversity")
"""Metrics in the feature space of `evaluation.distance`, by name or by their first part."""


@dataclass(frozen=True)
class Independence:
    """Dependence of a run's metrics on its reward."""

    trained_on: frozenset[str]
    """Scorers that the reward was trained on: an improvement proves little."""

    related: Mapping[str, str]
    """Metrics, or scorers, that the reward was not trained on but that share frozen weights with
    it, and which: an improvement proves less than one of an independent metric."""

    trained_by: Mapping[str, str]
    """Setting that makes the reward learn from each scorer of `trained_on`."""


def independence(
    discriminator: DiscriminatorConfig, reward: RewardConfig, evaluation: EvaluationConfig
) -> Independence:
    """Determine from the settings how much each metric depends on the reward.

    The reward was trained on a scorer if a term of the reward, or the tuned discriminator, is of
    its type or has its weights: a tuned model was initialized from the frozen one, and a PickScore
    at another location may be the same. A metric is related if its weights are those of the frozen
    backbone below the discriminator's head. Equal weights at two locations are not detected.
    """
    # By implementation rather than by type: all scorers of type `python` have the same type.
    learned_types = {scorer.implementation: key for key, scorer in reward.scorers.items()}
    learned_weights = {
        _location_key(weights): key
        for key, scorer in reward.scorers.items()
        for weights in scorer.all_weights
    }
    backbone = _location_key(discriminator.weights)
    if isinstance(discriminator, PickScoreDiscriminatorConfig):
        # The tuned discriminator was initialized from PickScore.
        learned_types.setdefault("pickscore", "discriminator")
        learned_weights.setdefault(backbone, "discriminator")
    trained_by: dict[str, str] = {}
    related: dict[str, str] = {}
    for scorer in evaluation.scorers:
        own = [_location_key(weights) for weights in scorer.all_weights]
        shared = [learned_weights[key] for key in own if key in learned_weights]
        # Equal weights count even with other code: their values rise together.
        if scorer.implementation in learned_types or shared:
            setting = learned_types.get(scorer.implementation) or shared[0]
            trained_by[scorer.metric_prefix] = setting
        elif backbone in own:
            related[scorer.metric_prefix] = "uses the discriminator's backbone"
    distance = _location_key(evaluation.distance.weights)
    if distance == backbone:
        same = "in the features of the discriminator's backbone"
        related |= dict.fromkeys(DISTANCE_METRICS, same)
    elif distance in learned_weights:
        related |= dict.fromkeys(DISTANCE_METRICS, "in the features of a scorer of the reward")
    # CMMD needs a CLIP; that of a tuned PickScore is among the learned weights.
    if evaluation.cmmd is not None and _location_key(evaluation.cmmd.weights) in learned_weights:
        related["distance.cmmd"] = "in the features of a scorer of the reward"
    return Independence(frozenset(trained_by), related, trained_by)


def _location_key(weights: Weights) -> tuple[str, str | None, str]:
    """Normalize a location so that two spellings of it compare equal."""
    return weights.location.rstrip("/"), weights.revision, weights.subfolder.strip("/")
