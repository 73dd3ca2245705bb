"""Discriminators on disk: the trained part, and the fingerprint of the frozen part."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from advgrpo.errors import WeightsError
from advgrpo.models.discriminators.base import Discriminator
from advgrpo.records import DISCRIMINATOR_WEIGHTS
from advgrpo.storage.tensors import read_tensors
from advgrpo.strict_json import load_json_object

FACTS_FILE = "discriminator.json"


def save_discriminator(
    folder: Path, discriminator: Discriminator, facts: Mapping[str, float]
) -> None:
    """Write the trained part of a discriminator.

    Args:
        folder: Gets `discriminator.safetensors` and `discriminator.json`.
        discriminator: The trained one.
        facts: Its metrics by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = discriminator.trainable_parameters()
    tensors = {name: p.detach().float().cpu().contiguous() for name, p in parameters.items()}
    save_file(tensors, folder / DISCRIMINATOR_WEIGHTS)
    # Written after the weights: a folder without it does not count as a discriminator.
    record = {"fingerprint": discriminator.frozen_fingerprint, "facts": dict(facts)}
    (folder / FACTS_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")


def load_discriminator(folder: Path, discriminator: Discriminator) -> None:
    """Load the trained part of a saved discriminator.

    Raises:
        WeightsError: If the files are missing, damaged, or belong to another frozen part or head.
    """
    try:
        record = load_json_object((folder / FACTS_FILE).read_text(encoding="utf-8"))
        tensors = read_tensors(folder / DISCRIMINATOR_WEIGHTS)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{folder} does not hold a discriminator: {error}", repair="run pretrain-reward again"
        ) from error
    parameters = discriminator.trainable_parameters()
    # Shapes are compared because the fingerprint covers only the frozen part.
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    expected = {name: tuple(value.shape) for name, value in parameters.items()}
    if record.get("fingerprint") != discriminator.frozen_fingerprint or shapes != expected:
        raise WeightsError(
            f"the discriminator in {folder} was trained with another backbone, another text "
            "encoder or other settings",
            repair="run pretrain-reward again with the present section `discriminator`",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            # In place, because an optimizer may hold these parameters already.
            parameter.copy_(tensors[name])
