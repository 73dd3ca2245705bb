"""HPS v2.1: settings and facts."""

from typing import ClassVar, Literal

from advgrpo.config.base import Weights
from advgrpo.config.scorers.base import BaseScorerConfig, MetricFacts


class HpsConfig(BaseScorerConfig):
    """HPS v2.1, arXiv:2306.09341: cosine of text and image by a CLIP trained on rankings."""

    type: Literal["hps"] = "hps"

    # Converted, because HPS is published as a pickle.
    weights: Weights
    """The folder that `advgrpo scorers convert-hps` wrote."""

    backbone = "clip"
    facts: ClassVar = {
        "score": MetricFacts(
            label="HPS v2.1",
            note="human preference by ranking, given the prompt",
            range="-1 to 1; 0.2 to 0.35 for generated images",
            unit="cosine; tables often show it times 100",
            higher_is_better=True,
            source="arXiv:2306.09341",
            licence="HPS v2.1: Apache-2.0",
            blind_to="the same as PickScore, which was trained the same way: the two may agree "
            "and both be wrong; values of different prompts are not comparable",
        )
    }
