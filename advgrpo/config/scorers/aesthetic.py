"""LAION's aesthetic predictor: settings and facts."""

from typing import ClassVar, Literal

from advgrpo.config.base import Weights
from advgrpo.config.scorers.base import BaseScorerConfig, MetricFacts


class AestheticConfig(BaseScorerConfig):
    """LAION's aesthetic predictor, arXiv:2210.08402: predicted rating of an image, from 1 to 10."""

    type: Literal["aesthetic"] = "aesthetic"

    # The first weights, whose architecture `backbone` describes.
    clip: Weights
    """The CLIP that the predictor was trained on, ViT-L/14, with its processor's and tokenizer's
    files."""

    predictor: Weights
    """The folder that `advgrpo scorers convert-aesthetic` wrote."""

    backbone = "clip"
    facts: ClassVar = {
        "score": MetricFacts(
            label="Aesthetic score",
            note="rating of the image alone",
            range="about 1 to 10; unbounded",
            unit="rating",
            higher_is_better=True,
            source="arXiv:2210.08402",
            licence="predictor: Apache-2.0; CLIP: MIT",
            blind_to="the prompt; prefers paintings, and pictures that policies trained on it "
            "exaggerate",
        )
    }
