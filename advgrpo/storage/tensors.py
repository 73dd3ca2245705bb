"""Safetensors files on the local disk."""

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
        path: The file; its folder exists.
        metadata: Strings for the file's header.

    Raises:
        StorageFullError: If the disk is full.
        StorageError: If it cannot be written for any other reason.
    """
    with disk_errors("write", path):
        try:
            save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            # The library has no errno, only "os error 28" in the message.
            if match := _NUMBER.search(str(error)):
                raise OSError(int(match[1]), os.strerror(int(match[1])), str(path)) from error
            raise StorageError(
                f"cannot write {path}: {error}",
                repair="check the path's permissions and the disk's free space",
            ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If it is damaged or is not a safetensors file.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    # A damaged header can name impossible shapes or types.
    except (SafetensorError, TypeError, RuntimeError, OverflowError) as error:
        # torch appends a C++ stack trace to some messages.
        raise ValueError(str(error).partition("\n")[0]) from error
    return tensors
