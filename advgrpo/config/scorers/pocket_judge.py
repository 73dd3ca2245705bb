"""The judge of the pocket world: settings and facts."""

from dataclasses import replace
from typing import ClassVar, Literal

from advgrpo.config.scorers.base import BaseScorerConfig, MetricFacts

_ACCURACY = MetricFacts(
    label="Attribute accuracy",
    note="by the pocket judge",
    range="0 to 1",
    unit="share of five attributes",
    higher_is_better=True,
    source="this package",
    licence="this package: MIT",
    blind_to="everything but the pocket world's captions",
)


class PocketJudgeConfig(BaseScorerConfig):
    """The judge of the pocket world: which of a caption's five attributes a picture shows."""

    type: Literal["pocket_judge"] = "pocket_judge"

    # The size of the pocket world's pictures, on which the judge was trained.
    only_resolution_pixels = 32
    facts: ClassVar = {
        "attribute_accuracy": _ACCURACY,
        "all_attributes": replace(
            _ACCURACY, label="All attributes", unit="share of images with all five correct"
        ),
    }
