"""Loading of frozen models of the transformers library, with checks of their files."""

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
        model_type: Accepted values of `model_type` in the folder's `config.json`.
        device: Device of the model.

    Returns:
        The model in float32 and evaluation mode; no parameter requires a gradient.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture.
    """
    known = (model_type,) if isinstance(model_type, str) else model_type
    if (found := model_type_of(folder)) not in known:
        raise WeightsError(
            f"the model in {folder} is of type {found!r}, not {' or '.join(map(repr, known))}",
            repair=f"set weights.location to a model of type {' or '.join(map(repr, known))}",
        )
    weights_files(folder)
    try:
        # The library's annotations omit the second value.
        loaded: Any = model_class.from_pretrained(
            folder,
            # Without `use_safetensors` the library falls back to pickles, which can run code.
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            # The default is the precision of the file, and published weights are often half
            # precision.
            dtype=torch.float32,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise WeightsError(
            f"the weights in {folder} cannot be loaded as {model_class.__name__}: {error}",
            repair=f"replace {folder} by a complete copy: a file may be truncated",
        ) from error
    model: M = loaded[0]
    info: dict[str, Iterable[object]] = loaded[1]
    # The library initializes missing tensors randomly, and only logs a warning.
    absent = sorted(str(key) for kind in ("missing", "mismatched") for key in info[f"{kind}_keys"])
    if absent:
        raise WeightsError(
            f"the weights in {folder} lack {len(absent)} tensors of {model_class.__name__}, for "
            f"instance {absent[0]}",
            repair=f"replace {folder} by a copy with the config.json of these weights",
        )
    module: nn.Module = model
    # Moved last: a model that fails the checks above does not reach the GPU.
    module.eval().requires_grad_(False).to(device)
    return model


def weights_files(folder: Path) -> list[Path]:
    """List the safetensors files of a model folder.

    Raises:
        WeightsError: If the folder has none.
    """
    # Sorted, because `fingerprint` depends on the order of the files.
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise WeightsError(
            f"{folder} holds pickled weights only, which can run any code when they are loaded",
            repair="if you trust the file, convert it to safetensors with save_pretrained",
        )
    raise WeightsError(
        f"{folder} holds no weights (*.safetensors)",
        repair="set weights.location and weights.subfolder to the folder of the model",
    )


def fingerprint(files: Iterable[Path], *facts: object) -> str:
    """Hash all that features depend on.

    Args:
        files: Weights files; their contents count, not their names.
        facts: Anything else with a stable `repr`, for instance the preprocessing.

    Returns:
        SHA-256 in hexadecimal.
    """
    # `repr` also of dataclasses, so a new field of the preprocessing changes all fingerprints.
    digest = hashlib.sha256(repr(facts).encode())
    # By content alone, so that a renamed or copied folder keeps its features.
    for path in files:
        digest.update(bytes.fromhex(cached_file_sha256(path)))
    return digest.hexdigest()


def model_type_of(folder: Path) -> str:
    """Read the architecture of the model in a folder.

    Returns:
        `model_type` of its `config.json`, as the transformers library names architectures.

    Raises:
        WeightsError: If the file is missing or has no `model_type`.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"{folder} holds no model: config.json is missing",
            repair="set weights.location and weights.subfolder to the folder of the model",
        )
    try:
        # Plain JSON instead of `AutoConfig`, so that an unknown type reaches the messages of the
        # callers.
        return str(load_json(path.read_text("utf-8"))["model_type"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{path} has no model_type: {error!r}",
            repair="copy config.json from where the model came from",
        ) from error
