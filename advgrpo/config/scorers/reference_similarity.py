"""Similarity to reference images: settings and facts."""

from typing import ClassVar, Literal

from advgrpo.config.base import PositiveInt, Weights
from advgrpo.config.scorers.base import BaseScorerConfig, MetricFacts


class ReferenceSimilarityConfig(BaseScorerConfig):
    """Mean cosine of DINOv2 class tokens to the reference images of the prompt."""

    type: Literal["reference_similarity"] = "reference_similarity"

    weights: Weights
    """A DINOv2 backbone."""

    resolution_pixels: PositiveInt = 518
    """Side length that images are resized to; a multiple of the patch size."""

    backbone = "dino"
    # Refused with images of a folder, which belong to no prompt.
    needs_reference_images = True
    facts: ClassVar = {
        "mean": MetricFacts(
            label="Similarity to reference images",
            note="of the same prompt",
            range="-1 to 1",
            unit="cosine",
            higher_is_better=True,
            source="arXiv:2511.20256, arXiv:2304.07193",
            licence="DINOv2: Apache-2.0",
            blind_to="text and fine detail; whether a different picture would be as good; prompts "
            "without reference images",
        )
    }
