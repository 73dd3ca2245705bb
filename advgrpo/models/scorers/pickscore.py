"""PickScore: human preference between two images of a prompt."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.base import Weights
from advgrpo.config.scorers.pickscore import PickScoreConfig
from advgrpo.models.backbones.clip import PICKSCORE_UNIT, ClipBackbone
from advgrpo.models.scorers.base import BuildContext


class PickScore:
    """A CLIP model trained on human choices; its metric is `pickscore.score`.

    The score is exp(tau) * cosine(text, image) / 26: dimensionless, near 0.8 for photographs and
    good generated images, higher is better. The weights are MIT-licensed.

    Args:
        weights: A CLIP model with its tokenizer and `preprocessor_config.json`.
        device: Where it runs.

    Raises:
        WeightsError: If any part is missing, damaged or of another architecture.

    Source:
        Pick-a-Pic, arXiv:2305.01569; the divisor is that of Flow-GRPO, arXiv:2505.05470.
    """

    name = "pickscore"

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self._clip = ClipBackbone(weights, device)

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Score the preference for each image, given its prompt."""
        texts = self._clip.text_features(prompts)
        # Both embeddings have norm 1, so the sum is the cosine.
        cosines = (self._clip.image_features(images) * texts).sum(dim=-1)
        return {"score": (self._clip.logit_scale * cosines / PICKSCORE_UNIT).cpu()}


def build(config: PickScoreConfig, context: BuildContext) -> PickScore:
    """Load the model."""
    return PickScore(config.weights, context.device)
