"""LAION's aesthetic predictor: a rating of the look of an image, independent of its prompt."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advgrpo.config.base import Weights
from advgrpo.config.scorers.aesthetic import AestheticConfig
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.loading import weights_files
from advgrpo.models.scorers.base import BuildContext
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.tensors import read_tensors

AESTHETIC_LAYERS = (0, 2, 4, 6, 7)
"""Positions of the linear layers in the published predictor, which has dropout between them."""


class Aesthetic:
    """A small network on CLIP ViT-L/14 embeddings of images; its metric is `aesthetic.score`.

    The score predicts a rating from 1 to 10, but is not clipped to this range: about 5 for ordinary
    pictures, above 6 for good ones; higher is better. It ignores the prompt. The predictor is
    Apache-2.0-licensed, CLIP MIT-licensed. The published predictor is a pickle; `advgrpo scorers
    convert-aesthetic` converts it to the folder that is read here.

    Args:
        clip: The CLIP model that the predictor was trained on.
        predictor: Folder with the predictor as safetensors.
        device: Where it runs.

    Raises:
        WeightsError: If a part is missing or damaged, or the two do not belong together.

    Source:
        Improved aesthetic predictor, as used for LAION-5B, arXiv:2210.08402.
    """

    name = "aesthetic"

    def __init__(self, clip: Weights, predictor: Weights, device: torch.device) -> None:
        self._clip = ClipBackbone(clip, device)
        folder = local_folder(predictor)
        self._predictor = load_predictor(folder).to(device)
        if (wanted := self._predictor[0].in_features) != self._clip.width:
            raise WeightsError(
                f"the predictor in {folder} expects embeddings of size {wanted}, but those of the "
                f"CLIP at {clip.location} have size {self._clip.width}",
                repair="set clip.location to the CLIP that it was trained on; the published "
                "predictor needs ViT-L/14",
            )

    @torch.no_grad()
    def score(
        self,
        images: Float[Tensor, "batch 3 height width"],
        prompts: Sequence[str],  # noqa: ARG002 - the rating ignores them
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Predict the rating of each image."""
        # The published predictor was trained on embeddings of length 1, as image_features returns.
        ratings: Tensor = self._predictor(self._clip.image_features(images))
        return {"score": ratings.squeeze(-1).cpu()}


def build(config: AestheticConfig, context: BuildContext) -> Aesthetic:
    """Load CLIP and predictor."""
    return Aesthetic(config.clip, config.predictor, context.device)


def load_predictor(folder: Path) -> nn.Sequential:
    """Load a predictor.

    Args:
        folder: Contains one safetensors file with the tensor names of the published predictor.

    Raises:
        WeightsError: If it is missing, damaged or not such a predictor.
    """
    # The published predictor is one file; several would be shards, or several predictors.
    (path, *others) = weights_files(folder)
    repair = "create it from the published file by advgrpo scorers convert-aesthetic"
    if others:
        raise WeightsError(f"{folder} contains more than one safetensors file", repair=repair)
    try:
        return build_predictor(read_tensors(path))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not an aesthetic predictor: {error}", repair=repair) from (
            error
        )


def build_predictor(tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """Build a predictor from the tensors of the published one, frozen and in float32.

    Raises:
        ValueError: If tensors are missing, not finite, of the wrong shape or unknown.
    """
    names = {f"layers.{layer}.{part}" for layer in AESTHETIC_LAYERS for part in ("weight", "bias")}
    # Unknown tensors as well: they could belong to layers that this network does not have.
    if wrong := sorted(names ^ set(tensors)):
        raise ValueError(f"{wrong[0]} is {'missing' if wrong[0] in names else 'unknown'}")
    modules = []
    width: int | None = None
    for layer in AESTHETIC_LAYERS:
        weight, bias = tensors[f"layers.{layer}.weight"], tensors[f"layers.{layer}.bias"]
        if (
            weight.ndim != 2
            # Checked here, because a mismatch would otherwise fail only with the first image.
            or width not in {None, weight.shape[1]}
            or bias.shape != weight[:, 0].shape
        ):
            raise ValueError(
                f"layers.{layer} has the wrong shape: weight {tuple(weight.shape)}, bias "
                f"{tuple(bias.shape)}, after a layer of {width}"
            )
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise ValueError(f"layers.{layer} is not finite")
        width, inputs = weight.shape
        # No activations in between: the published network has none.
        module = nn.Linear(inputs, width)
        module.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        modules.append(module)
    if width != 1:
        raise ValueError(f"its last layer has {width} outputs instead of 1")
    # Dropout is the identity in evaluation mode, so the linear layers are the whole network.
    return nn.Sequential(*modules).eval().requires_grad_(False)
