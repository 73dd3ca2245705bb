"""HPS v2.1: human preference by rankings of generated images."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.base import Weights
from advgrpo.config.scorers.hps import HpsConfig
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.scorers.base import BuildContext


class Hps:
    """A CLIP ViT-H/14 fine-tuned on rankings of generated images; its metric is `hps.score`.

    The score is cosine(text, image): dimensionless, in [-1, 1], between 0.2 and 0.35 for generated
    images (published tables multiply it by 100); higher is better. Only scores of the same prompts
    can be compared. Code and weights are Apache-2.0-licensed. The published checkpoint is a pickle;
    `advgrpo scorers convert-hps` converts it to the folder that is read here.

    Args:
        weights: A CLIP model with its tokenizer and `preprocessor_config.json`.
        device: Where it runs.

    Raises:
        WeightsError: If any part is missing, damaged or of another architecture.

    Source:
        Human Preference Score v2, arXiv:2306.09341.
    """

    name = "hps"

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self._clip = ClipBackbone(weights, device)

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Score each image, given its prompt."""
        # As in the published code, without the logit scale.
        texts = self._clip.text_features(prompts)
        return {"score": (self._clip.image_features(images) * texts).sum(dim=-1).cpu()}


def build(config: HpsConfig, context: BuildContext) -> Hps:
    """Load the model."""
    return Hps(config.weights, context.device)
