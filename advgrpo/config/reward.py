"""The reward of the policy: a weighted sum of terms."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advgrpo.config.base import FrozenPrecision, PositiveFloat, Section
from advgrpo.config.scorers.union import ScorerConfig

DISCRIMINATOR = "discriminator"


class DiscriminatorTerm(Section):
    """The discriminator being trained."""

    type: Literal["discriminator"] = "discriminator"
    weight: PositiveFloat = 1.0

    @property
    def name(self) -> str:
        """Name of the term in logged metrics."""
        return self.type


class ScorerTerm(Section):
    """A metric of a frozen scorer."""

    type: Literal["scorer"] = "scorer"
    scorer: ScorerConfig
    """The scorer; [scorers.md](scorers.md) describes its metrics."""

    metric: str | None = None
    """Which of the scorer's metrics, without the scorer's name; none if it has only one."""

    weight: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _metric_is_one_of_the_scorer(self) -> Self:
        # A default among several metrics would change with their order.
        known = self.scorer.metrics_without_prefix
        if self.metric is None and len(known) > 1:
            raise ValueError(
                f"{self.name} has several metrics: set `metric` to {' or '.join(known)}"
            )
        if self.metric is not None and self.metric not in known:
            raise ValueError(
                f"metric={self.metric!r} is not a metric of {self.name}: use {' or '.join(known)}"
            )
        return self

    @property
    def name(self) -> str:
        """Name of the term in logged metrics."""
        return self.scorer.metric_prefix

    @property
    def metric_without_prefix(self) -> str:
        """The rewarded metric, as a key of what the scorer returns."""
        return self.metric or self.scorer.metrics_without_prefix[0]

    @property
    def metric_name(self) -> str:
        """The rewarded metric, as `scorer.metric`."""
        return f"{self.name}.{self.metric_without_prefix}"


RewardTerm = Annotated[DiscriminatorTerm | ScorerTerm, Field(discriminator="type")]


class RewardConfig(Section):
    """The reward: a weighted sum of terms."""

    terms: Annotated[tuple[RewardTerm, ...], Field(min_length=1)] = (DiscriminatorTerm(),)
    """The discriminator and any scorers, each at most once. A scorer that rewards cannot be
    `evaluation.alignment`."""

    standardize: bool = False
    """Divide each term, centred on its group, by its standard deviation over the rollout, so that
    weights do not depend on the scale of the terms."""

    frozen_precision: FrozenPrecision = "auto"
    """Precision of products in scorers that reward; see `discriminator.frozen_precision`. Held-out
    metrics and evaluation are always float32."""

    @model_validator(mode="after")
    def _names_of_terms_are_unique(self) -> Self:
        names = [term.name for term in self.terms]
        # Also prevents two discriminator terms.
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"reward.terms has {twice[0]} more than once: metrics of a term are logged by its "
                "name, so remove one"
            )
        return self

    @property
    def scorer_terms(self) -> dict[str, ScorerTerm]:
        """Terms with a frozen scorer, by their setting's key."""
        return {
            f"training.reward.terms.{position}": term
            for position, term in enumerate(self.terms)
            if isinstance(term, ScorerTerm)
        }

    @property
    def scorers(self) -> dict[str, ScorerConfig]:
        """Frozen scorers of the terms, by their setting's key."""
        return {f"{setting}.scorer": term.scorer for setting, term in self.scorer_terms.items()}
