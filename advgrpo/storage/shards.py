"""Shards: files of named tensors by key, each with the hash of its content."""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from advgrpo.storage.files import storage_for
from advgrpo.storage.locations import join
from advgrpo.storage.tensors import save_tensors

SUFFIX = ".safetensors"

CONTENT = "content"
"""Metadata key of the hash of a shard's content."""


class Shards:
    """Shards on the local disk, memory-mapped: a process reads only the tensors that it takes.

    Args:
        folder: Local folder that holds the shards.
        shards: File name -> keys that will be taken.
    """

    def __init__(self, folder: Path, shards: Mapping[str, Collection[str]]) -> None:
        files = {name: safe_open(folder / name, framework="pt", device="cpu") for name in shards}
        self._files = {key: files[name] for name, keys in shards.items() for key in keys}
        # All tensors of a store have the same names.
        self._names = sorted(
            {key.partition(" ")[2] for file in list(files.values())[:1] for key in file.keys()}  # noqa: SIM118
        )

    def __contains__(self, key: object) -> bool:
        return key in self._files

    def take(self, key: str) -> dict[str, Tensor]:
        """Read the tensors of a key, by name."""
        file = self._files[key]
        return {name: file.get_tensor(f"{key} {name}") for name in self._names}


def shard_name(keys: Collection[str]) -> str:
    """Return the name of the file of a shard with these keys, in any order."""
    return hashlib.sha256(" ".join(sorted(keys)).encode()).hexdigest() + SUFFIX


def write_shard(location: str, rows: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Write a shard atomically.

    Args:
        location: Local folder or `s3://` location.
        rows: Key, without spaces -> tensors by name, on the CPU; names are the same for all keys.

    Returns:
        The name of its file.

    Raises:
        StorageError: If it cannot be written.
    """
    tensors = {
        # A row that is a view of a batch would share its memory with the others.
        f"{key} {name}": tensor.clone(memory_format=torch.contiguous_format)
        for key, row in rows.items()
        for name, tensor in row.items()
    }
    name = shard_name(rows)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "shard"
        save_tensors(tensors, path, metadata={CONTENT: _content_hash(tensors)})
        storage_for(location).upload_file(path, join(location, name))
    return name


def shard_damage(path: Path) -> str:
    """Return the damage of a shard's file; empty if it is intact."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            recorded = (file.metadata() or {}).get(CONTENT)
    except (OSError, SafetensorError) as error:
        return str(error)
    keys = {name.partition(" ")[0] for name in tensors}
    # The name is checked too: a shard of other keys may have been copied over this one.
    if recorded == _content_hash(tensors) and path.name == shard_name(keys):
        return ""
    return "its content differs from its hash"


def _content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
