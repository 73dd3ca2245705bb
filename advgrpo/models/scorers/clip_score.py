"""CLIP score: similarity of image and text, by a model trained on captions."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.base import Weights
from advgrpo.config.scorers.clip_score import ClipScoreConfig
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.scorers.base import BuildContext

CLIP_SCORE_FACTOR = 2.5
"""Maps the cosines that occur in practice, up to about 0.4, to [0, 1]."""


class ClipScore:
    """A frozen CLIP model; its metric is `clip_score.score`.

    The score is 2.5 * max(cosine(text, image), 0): dimensionless, in [0, 2.5], near 0.8 for a
    matching photograph by CLIP ViT-B/32; higher is better. OpenAI's weights are MIT-licensed.

    Args:
        weights: A CLIP model with its tokenizer and `preprocessor_config.json`.
        device: Where it runs.
        prefix: Prepended to each prompt, as in the paper.

    Raises:
        WeightsError: If any part is missing, damaged or of another architecture.

    Source:
        CLIPScore, arXiv:2104.08718, without references.
    """

    name = "clip_score"

    def __init__(self, weights: Weights, device: torch.device, *, prefix: str) -> None:
        self._clip = ClipBackbone(weights, device)
        self._prefix = prefix

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Score the similarity of each image to its prompt."""
        texts = self._clip.text_features([self._prefix + prompt for prompt in prompts])
        # Both embeddings have norm 1, so the sum is the cosine.
        cosines = (self._clip.image_features(images) * texts).sum(dim=-1)
        return {"score": (CLIP_SCORE_FACTOR * cosines.clamp_min(0)).cpu()}


def build(config: ClipScoreConfig, context: BuildContext) -> ClipScore:
    """Load the model."""
    return ClipScore(config.weights, context.device, prefix=config.prefix)
