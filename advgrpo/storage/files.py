"""Single files on any backend, and the table of backends."""

import importlib
import os
from collections.abc import Callable
from functools import lru_cache

from advgrpo.errors import ConfigError
from advgrpo.storage.base import Storage
from advgrpo.storage.local import LocalStorage
from advgrpo.storage.locations import scheme


def storage_for(location: str) -> Storage:
    """Return the backend of a location.

    Args:
        location: A local path or `s3://bucket/key`.

    Raises:
        ConfigError: If the scheme has no backend.
    """
    backend = BACKENDS.get(scheme(location))
    if backend is None:
        supported = " or ".join(f"{name}://" for name in BACKENDS if name)
        raise ConfigError(
            f"{location} is not a local path or an {supported} location",
            repair="use one of these where files are written",
        )
    return backend()


def is_remote(location: str) -> bool:
    """Return whether a location has a backend other than the local disk."""
    return bool(scheme(location)) and scheme(location) in BACKENDS


def _s3() -> Storage:
    # Changed credentials or endpoints need a new client.
    # Not `items()`, which fails if another thread removes a variable meanwhile.
    variables = sorted((k, os.environ.get(k, "")) for k in os.environ if k.startswith("AWS_"))
    return _s3_storage(tuple(variables))


@lru_cache(maxsize=4)
def _s3_storage(_aws_variables: tuple[tuple[str, str], ...]) -> Storage:
    # Importing boto3 takes 0.2 s, which local runs need not pay.
    storage: Storage = importlib.import_module("advgrpo.storage.s3").S3Storage()
    return storage


BACKENDS: dict[str, Callable[[], Storage]] = {"": LocalStorage, "s3": _s3}
"""Backend of each scheme; the empty one is a local path."""


def read_bytes(location: str) -> bytes:
    """Read a whole file.

    Raises:
        StorageNotFoundError: If it does not exist.
        StorageError: If it cannot be read.
    """
    return storage_for(location).read_bytes(location)


def write_bytes(location: str, data: bytes) -> None:
    """Write a file atomically: readers see the old content or the new one.

    Raises:
        StorageError: If it cannot be written; the old content is unchanged.
    """
    storage_for(location).write_bytes(location, data)


def exists(location: str) -> bool:
    """Return whether a file exists; a folder is not a file."""
    return storage_for(location).exists(location)


def list_files(location: str) -> tuple[str, ...]:
    """List a folder recursively.

    Returns:
        Sorted names below the folder, with forward slashes; empty if the folder does not exist.
    """
    return tuple(storage_for(location).list_files(location))


def delete(location: str) -> None:
    """Delete a file, or a folder recursively; a missing one is not an error."""
    storage_for(location).delete(location)
