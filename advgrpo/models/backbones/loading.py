"""Load a frozen model from a folder, or say why not."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from advgrpo.errors import WeightsError
from advgrpo.storage.file_hash import cached_file_sha256
from advgrpo.strict_json import load_json

M = TypeVar("M", bound=PreTrainedModel)


def load_frozen(
    model_class: type[M], folder: Path, *, model_type: str | tuple[str, ...], device: torch.device
) -> M:
    """Load a model whose weights never change.

    Args:
        model_class: Class of the transformers library.
        folder: Folder in `save_pretrained` layout, with safetensors.
        model_type: What `model_type` in the folder's `config.json` must be, or may be.
        device: Where the model is put.

    Returns:
        The model in float32 and evaluation mode; no parameter requires a gradient.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture.
    """
    known = (model_type,) if isinstance(model_type, str) else model_type
    if (found := model_type_of(folder)) not in known:
        raise WeightsError(
            f"the model in {folder} is of type {found!r}, not {' or '.join(map(repr, known))}",
            repair="set weights.location to a model of the right type",
        )
    weights_files(folder)
    try:
        # The library's types leave out the second value.
        loaded: Any = model_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise WeightsError(
            f"the weights in {folder} cannot be loaded as {model_class.__name__}: {error}",
            repair="the file may be cut short: fetch it again",
        ) from error
    model: M = loaded[0]
    info: dict[str, Iterable[object]] = loaded[1]
    # The library fills what a file lacks with random numbers, and only logs a warning.
    absent = sorted(str(key) for kind in ("missing", "mismatched") for key in info[f"{kind}_keys"])
    if absent:
        raise WeightsError(
            f"the weights in {folder} lack {len(absent)} tensors of {model_class.__name__}, for "
            f"instance {absent[0]}",
            repair="check that config.json and the weights belong together",
        )
    module: nn.Module = model
    module.eval().requires_grad_(False).to(device)
    return model


def weights_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model folder.

    Raises:
        WeightsError: If there is none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise WeightsError(
            f"{folder} holds pickled weights only, which can run any code when they are read",
            repair="convert them to safetensors with save_pretrained, where you trust the file",
        )
    raise WeightsError(
        f"{folder} holds no weights (*.safetensors)",
        repair="check the setting weights.location, and weights.subfolder",
    )


def fingerprint(files: Iterable[Path], *facts: object) -> str:
    """Hash what a feature depends on.

    Args:
        files: Weights files; their contents count, not their names.
        facts: Anything else with a stable `repr`, for instance the preprocessing.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for path in files:
        digest.update(bytes.fromhex(cached_file_sha256(path)))
    return digest.hexdigest()


def model_type_of(folder: Path) -> str:
    """Read what architecture a model folder holds.

    Returns:
        `model_type` of its `config.json`, as the transformers library names architectures.

    Raises:
        WeightsError: If the file is missing or does not say.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"there is no model in {folder}: config.json is missing",
            repair="check the setting weights.location, and weights.subfolder",
        )
    try:
        return str(load_json(path.read_text("utf-8"))["model_type"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{path} names no model_type: {error!r}",
            repair="copy the file from where the model came from",
        ) from error
