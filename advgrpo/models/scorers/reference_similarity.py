"""Similarity of an image to the reference images of its prompt."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from advgrpo.config.scorers.reference_similarity import ReferenceSimilarityConfig
from advgrpo.data.image_loading import load_images
from advgrpo.data.images import to_uint8
from advgrpo.errors import ConfigError
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.scorers.base import BuildContext
from advgrpo.records import ReferenceImageSet


class ReferenceSimilarity:
    """DINOv2 class tokens, compared with those of the prompt's reference images.

    The metric is `reference_similarity.mean`: the mean cosine to the prompt's reference images,
    dimensionless, in [-1, 1]; higher is better, up to the similarity of reference images of one
    prompt to each other. A reference image is compared with the others of its prompt, not with
    itself (unless it is the only one). DINOv2's weights are Apache-2.0-licensed.

    Args:
        backbone: The DINOv2 backbone.
        reference_images: Reference images of the prompts; a prompt without any has no value.

    Source:
        The DINO similarity of Adv-GRPO, arXiv:2511.20256; DINOv2, arXiv:2304.07193.
    """

    name = "reference_similarity"
    metrics = ("mean",)

    def __init__(self, backbone: DinoBackbone, reference_images: ReferenceImageSet) -> None:
        self._backbone, self._reference_images = backbone, reference_images
        self._known: dict[str, _References] = {}

    def why_missing(self, prompt: str) -> str:
        """Return why images of a prompt have no value; empty if they have one."""
        return "" if self._reference_images.files.get(prompt) else "it has no reference images"

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Compare each image with the reference images of its prompt."""
        features = self._features(images)
        similarities = [
            self._references(prompt).similarity(feature, _fingerprint(image))
            for image, feature, prompt in zip(images, features, prompts, strict=True)
        ]
        return {"mean": torch.stack(similarities)}

    def _references(self, prompt: str) -> "_References":
        # Features only: the images of all prompts would not fit in memory.
        if prompt not in self._known:
            count = len(self._reference_images.files[prompt])
            images = load_images(self._reference_images, prompt, range(count))
            self._known[prompt] = _References(
                # On first use, because the set may have more prompts than are scored.
                self._features(images),
                [_fingerprint(image) for image in images],
            )
        return self._known[prompt]

    def _features(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature"]:
        # Token 0 is the class token.
        return functional.normalize(self._backbone.tokens(images)[:, 0], dim=-1).cpu()


def build(config: ReferenceSimilarityConfig, context: BuildContext) -> ReferenceSimilarity:
    """Load the backbone.

    Raises:
        ConfigError: If there are no reference images.
    """
    if context.reference_images is None:
        raise ConfigError(
            f"{config.type} compares with reference images, and there are none here",
            repair="use this scorer only in runs with reference images",
        )
    backbone = DinoBackbone(
        config.weights, resolution_pixels=config.resolution_pixels, device=context.device
    )
    return ReferenceSimilarity(backbone, context.reference_images)


class _References:
    """Features of the reference images of one prompt, and hashes of their pixels."""

    def __init__(
        self, features: Float[Tensor, "reference_image feature"], fingerprints: Sequence[str]
    ) -> None:
        self._features, self._fingerprints = features, fingerprints

    def similarity(self, feature: Float[Tensor, "feature"], fingerprint: str) -> Float[Tensor, ""]:
        # Training also scores reference images; the hash identifies the image itself.
        others = [known != fingerprint for known in self._fingerprints]
        chosen = self._features[others] if any(others) else self._features
        return (chosen @ feature).mean()


def _fingerprint(image: Float[Tensor, "3 height width"]) -> str:
    # Of the 8-bit levels, so that a reference image matches itself after a round trip through a
    # file.
    return hashlib.sha256(to_uint8(image.float().cpu()).numpy().tobytes()).hexdigest()
