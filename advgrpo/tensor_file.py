"""Safetensors files that others wrote."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If it is damaged, or is no safetensors.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, TypeError, RuntimeError, OverflowError) as error:
        # Of a shape that torch cannot count it says so with its own stack, in many lines.
        raise ValueError(str(error).partition("\n")[0]) from error
    return tensors
