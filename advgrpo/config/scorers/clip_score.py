"""CLIP score: settings and facts."""

from typing import ClassVar, Literal

from advgrpo.config.base import Weights
from advgrpo.config.scorers.base import BaseScorerConfig, MetricFacts


class ClipScoreConfig(BaseScorerConfig):
    """CLIP score, arXiv:2104.08718: 2.5 * cosine of text and image, at least 0."""

    type: Literal["clip_score"] = "clip_score"

    weights: Weights
    """A CLIP model with its processor's and tokenizer's files; ViT-B/32 in the paper."""

    prefix: str = "A photo depicts "
    """Prepended to each prompt, as in the paper; may be empty."""

    backbone = "clip"
    facts: ClassVar = {
        "score": MetricFacts(
            label="CLIP score",
            note="match of image and prompt",
            range="0 to 2.5; near 0.8 for a matching photograph",
            unit="2.5 x cosine",
            higher_is_better=True,
            source="arXiv:2104.08718",
            licence="CLIP: MIT",
            blind_to="quality, counts, positions, which attribute belongs to which object; reads "
            "at most 77 tokens of the prompt",
        )
    }
