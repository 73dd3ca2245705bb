"""LAION's aesthetic predictor: how much people like how an image looks, whatever it shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advgrpo.config import Weights
from advgrpo.config.scorers.aesthetic import AestheticConfig
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.loading import weights_files
from advgrpo.models.scorers.base import BuildContext
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.tensors import read_tensors

AESTHETIC_LAYERS = (0, 2, 4, 6, 7)
"""Positions of the linear layers in the published predictor; between them stood dropout."""


class Aesthetic:
    """A small network on CLIP ViT-L/14 embeddings of images; measures `aesthetic.score`.

    The score predicts a rating from 1 to 10, and is not held within it: about 5 for ordinary
    pictures, above 6 for good ones; higher is better. It does not see the prompt. The predictor is
    Apache-2.0-licensed, CLIP MIT-licensed. The published predictor is a pickle; `advgrpo scorers
    convert-aesthetic` makes the folder that is read here of it.

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
                f"the predictor in {folder} reads {wanted} numbers, but the CLIP at "
                f"{clip.location} makes {self._clip.width} of an image",
                repair="name the CLIP that it was trained on; that of the published one is "
                "ViT-L/14",
            )

    @torch.no_grad()
    def score(
        self,
        images: Float[Tensor, "batch 3 height width"],
        prompts: Sequence[str],  # noqa: ARG002 - it does not see them
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Predict how each image would be rated."""
        ratings: Tensor = self._predictor(self._clip.image_features(images))
        return {"score": ratings.squeeze(-1).cpu()}


def build(config: AestheticConfig, context: BuildContext) -> Aesthetic:
    """Load CLIP and predictor."""
    return Aesthetic(config.clip, config.predictor, context.device)


def load_predictor(folder: Path) -> nn.Sequential:
    """Load the linear layers of a predictor; between them is nothing but dropout in training.

    Args:
        folder: Holds one safetensors file with the names of the published one.

    Raises:
        WeightsError: If it is missing or damaged, or is not such a predictor.
    """
    (path, *others) = weights_files(folder)
    repair = "make it of the published file: advgrpo scorers convert-aesthetic"
    if others:
        raise WeightsError(f"{folder} holds more than one safetensors file", repair=repair)
    try:
        return predictor_of(read_tensors(path))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} holds no aesthetic predictor: {error}", repair=repair) from (
            error
        )


def predictor_of(tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """Build a predictor from the tensors of the published one, frozen and in float32.

    Raises:
        ValueError: If tensors are missing, not finite, of a wrong shape or too many.
    """
    names = {f"layers.{layer}.{part}" for layer in AESTHETIC_LAYERS for part in ("weight", "bias")}
    if wrong := sorted(names ^ set(tensors)):
        raise ValueError(f"{wrong[0]} is {'missing' if wrong[0] in names else 'not known'}")
    modules = []
    width: int | None = None
    for layer in AESTHETIC_LAYERS:
        weight, bias = tensors[f"layers.{layer}.weight"], tensors[f"layers.{layer}.bias"]
        if (
            weight.ndim != 2
            or width not in {None, weight.shape[1]}
            or bias.shape != weight[:, 0].shape
        ):
            raise ValueError(
                f"layers.{layer} does not fit: weight {tuple(weight.shape)}, bias "
                f"{tuple(bias.shape)}, after a layer of {width}"
            )
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise ValueError(f"layers.{layer} is not finite")
        width, inputs = weight.shape
        module = nn.Linear(inputs, width)
        module.load_state_dict({"weight": weight.float(), "bias": bias.float()})
        modules.append(module)
    if width != 1:
        raise ValueError(f"its last layer gives {width} numbers, not one")
    return nn.Sequential(*modules).eval().requires_grad_(False)
