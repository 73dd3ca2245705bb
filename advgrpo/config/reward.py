"""The reward of the policy: a weighted sum of terms."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advgrpo.config.base import PositiveFloat, Section
from advgrpo.config.scorers import (
    AestheticConfig,
    ClipScoreConfig,
    ExternalJudgeConfig,
    HpsConfig,
    OcrConfig,
    PickScoreConfig,
    PocketJudgeConfig,
    ReferenceSimilarityConfig,
    metrics_of,
)


class DiscriminatorReward(Section):
    """The discriminator being trained."""

    type: Literal["discriminator"] = "discriminator"
    weight: PositiveFloat = 1.0


class PickScoreReward(PickScoreConfig):
    """A frozen PickScore."""

    weight: PositiveFloat = 1.0


class ClipScoreReward(ClipScoreConfig):
    """A frozen CLIP score."""

    weight: PositiveFloat = 1.0


class HpsReward(HpsConfig):
    """A frozen HPS v2.1."""

    weight: PositiveFloat = 1.0


class AestheticReward(AestheticConfig):
    """LAION's frozen aesthetic predictor."""

    weight: PositiveFloat = 1.0


class OcrReward(OcrConfig):
    """Share of the text quoted in the prompt that can be read; every prompt must quote some."""

    weight: PositiveFloat = 1.0


class ReferenceSimilarityReward(ReferenceSimilarityConfig):
    """Mean cosine of DINOv2 class tokens to the reference images of the prompt."""

    weight: PositiveFloat = 1.0


class ExternalJudgeReward(ExternalJudgeConfig):
    """A verdict of a program that judges images."""

    metric: str = "correct"
    """Which of its `verdicts`."""

    weight: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _measure_is_a_verdict(self) -> Self:
        if self.metric not in self.verdicts:
            raise ValueError(
                f"measure={self.metric!r} is none of the judge's verdicts "
                f"({', '.join(self.verdicts)})"
            )
        return self


class PocketJudgeReward(PocketJudgeConfig):
    """The judge of the pocket world."""

    metric: Literal["attribute_accuracy", "all_attributes"] = "attribute_accuracy"
    """The share of right attributes, or whether all five are right."""

    weight: PositiveFloat = 1.0


ScorerReward = (
    PickScoreReward
    | ClipScoreReward
    | HpsReward
    | AestheticReward
    | OcrReward
    | ReferenceSimilarityReward
    | ExternalJudgeReward
    | PocketJudgeReward
)
"""A frozen measure that rewards."""

RewardTerm = Annotated[DiscriminatorReward | ScorerReward, Field(discriminator="type")]


class RewardConfig(Section):
    """The reward: a weighted sum of terms."""

    terms: Annotated[tuple[RewardTerm, ...], Field(min_length=1)] = (DiscriminatorReward(),)
    """At most one of each type. What rewards cannot be the evaluation's measure of alignment."""

    standardize: bool = False
    """Divide each term, centred on its group, by its standard deviation over the rollout, so that
    the weights compare like with like."""

    @model_validator(mode="after")
    def _terms_can_be_told_apart(self) -> Self:
        types = [term.type for term in self.terms]
        if twice := sorted({name for name in types if types.count(name) > 1}):
            raise ValueError(
                f"reward.terms has {twice[0]} more than once: terms are logged by their type, so "
                "keep one"
            )
        return self

    @property
    def scorers(self) -> dict[str, ScorerReward]:
        """The frozen measures among the terms, by the setting that asks for them."""
        return {
            f"training.reward.terms.{position}": term
            for position, term in enumerate(self.terms)
            if not isinstance(term, DiscriminatorReward)
        }


def rewarded_metric(term: ScorerReward) -> str:
    """Name what a frozen measure rewards, as `scorer.measure`."""
    if isinstance(term, ExternalJudgeReward | PocketJudgeReward):
        return f"{term.type}.{term.metric}"
    (metric,) = metrics_of(term)
    return metric
