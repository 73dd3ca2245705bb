"""Facts about every metric of an evaluation, collected from the modules that compute them."""

from collections.abc import Mapping
from typing import get_args

from advgrpo.config.scorers.base import MetricFacts
from advgrpo.config.scorers.union import ScorerConfig
from advgrpo.models.scorers import distance, diversity, manifold, statistics

IMAGE_METRICS: Mapping[str, MetricFacts] = {
    **{
        f"{config.model_fields['type'].default}.{name}": facts
        # `ScorerConfig` is an annotated union, so its members are two levels down.
        for config in get_args(get_args(ScorerConfig)[0])
        for name, facts in config.facts.items()
    },
    **statistics.FACTS,
}
"""Metrics of single images by name, `scorer.metric`; the report shows their mean over prompts. A
last part `*` stands for names that the user chooses."""

SET_METRICS: Mapping[str, MetricFacts] = {
    **distance.FACTS,
    **manifold.FACTS,
    **diversity.FACTS,
}
"""Metrics of sets of images."""


def find_facts(metric: str) -> MetricFacts | None:
    """Return the facts about a metric; None if the user named it."""
    return IMAGE_METRICS.get(metric) or SET_METRICS.get(metric)
