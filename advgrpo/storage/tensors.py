"""Tensors on the local disk."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from advgrpo.errors import StorageError
from advgrpo.storage.local import disk_errors

_NUMBER = re.compile(r"os error (\d+)")


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Args:
        tensors: Contiguous, on the CPU, no two in the same memory.
        path: The file; its folder is there.
        metadata: Words for the file's head.

    Raises:
        StorageFullError: If the disk is full.
        StorageError: If it cannot be written for another reason.
    """
    with disk_errors("write", path):
        try:
            save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            # The library hides the operating system's errors in its own.
            if found := _NUMBER.search(str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
            raise StorageError(
                f"cannot write {path}: {error}", repair="check the path and the disk"
            ) from error


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
