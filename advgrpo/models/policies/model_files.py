"""Files of a pipeline's models, checked as they are loaded."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from advgrpo.errors import WeightsError
from advgrpo.models.backbones.loading import weights_files


def check_files(folder: Path) -> None:
    """Open the files of a model, which checks their length: a truncated download is found.

    Raises:
        WeightsError: If one is missing, truncated or damaged.
    """
    try:
        files = weights_files(folder)
    except WeightsError as error:
        raise WeightsError(f"policy.weights: {error.message}", repair=error.repair) from error
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"policy.weights: {path} is truncated or damaged: {error}",
                repair=f"replace {path} by a complete copy",
            ) from error


def load_model(model_class: Any, folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 - diffusers has no types
    """Load a frozen model.

    Raises:
        WeightsError: If the files lack some of its tensors.
    """
    model, info = model_class.from_pretrained(
        folder,
        dtype=dtype,
        # Without it the libraries fall back to pickles, which can run code.
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    # The libraries initialize missing tensors randomly, and only log a warning.
    missing = sorted(info["missing_keys"])
    if missing:
        raise WeightsError(
            f"policy.weights: {folder} lacks {len(missing)} tensors, for instance {missing[0]}",
            repair=f"replace {folder} by a complete copy",
        )
    # `from_pretrained` leaves `requires_grad` set, by which `trainable_parameters` selects.
    return model.requires_grad_(False).eval()
