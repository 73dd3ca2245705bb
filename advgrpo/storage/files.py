"""Read and write single files wherever they lie."""

import os
from functools import lru_cache

from advgrpo.errors import ConfigError
from advgrpo.storage.base import Storage, scheme
from advgrpo.storage.local import LocalStorage


def storage_for(location: str) -> Storage:
    """Find what reads and writes a location.

    Args:
        location: A local path or `s3://bucket/key`.

    Raises:
        ConfigError: If files of that scheme cannot be read and written one by one.
    """
    kind = scheme(location)
    if not kind:
        return LocalStorage()
    if kind != "s3":
        raise ConfigError(
            f"{location} is not a local path or an s3:// location",
            repair="use one of these where files are written",
        )
    variables = sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_"))
    return _s3_storage(tuple(variables))


@lru_cache(maxsize=4)
def _s3_storage(_aws_variables: tuple[tuple[str, str], ...]) -> Storage:
    # boto3 takes a fifth of a second to load, which local runs need not pay.
    from advgrpo.storage.s3 import S3Storage  # noqa: PLC0415

    return S3Storage()


def read_bytes(location: str) -> bytes:
    """Read a whole file.

    Raises:
        StorageError: If it cannot be read; the subclass says whether it is absent.
    """
    return storage_for(location).read_bytes(location)


def write_bytes(location: str, data: bytes) -> None:
    """Write a file at once: readers see the old content or the new, never a part.

    Raises:
        StorageError: If it cannot be written; what was there before is unchanged.
    """
    storage_for(location).write_bytes(location, data)


def exists(location: str) -> bool:
    """Tell whether there is a file of this name; a folder is not a file."""
    return storage_for(location).exists(location)


def list_files(location: str) -> tuple[str, ...]:
    """List a folder and all folders below it.

    Returns:
        Sorted names below the folder, with forward slashes; none if there is no such folder.
    """
    return tuple(storage_for(location).list_files(location))


def delete(location: str) -> None:
    """Delete a file or a folder with all below it; absent ones are no error."""
    storage_for(location).delete(location)
