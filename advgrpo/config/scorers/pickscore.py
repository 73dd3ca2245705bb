"""PickScore: settings and facts."""

from typing import ClassVar, Literal

from advgrpo.config.base import Weights
from advgrpo.config.scorers.base import BaseScorerConfig, MetricFacts


class PickScoreConfig(BaseScorerConfig):
    """PickScore, arXiv:2305.01569: exp(tau) * cosine of text and image, divided by 26."""

    type: Literal["pickscore"] = "pickscore"

    weights: Weights
    """A CLIP model with its processor's and tokenizer's files."""

    backbone = "clip"
    facts: ClassVar = {
        "score": MetricFacts(
            label="PickScore",
            note="human preference, given the prompt",
            range="about 0.6 to 0.9; unbounded",
            unit="logit / 26",
            higher_is_better=True,
            source="arXiv:2305.01569",
            licence="PickScore v1: MIT",
            blind_to="small or repeated details, counts and positions of objects; prefers "
            "saturated and centred pictures, as its annotators did",
        )
    }
