"""The interface of a place that holds files, and how locations are spelled."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from advgrpo.errors import ConfigError

PARTIAL_PREFIX = ".partial-"
"""Start of the names of files and folders that are still being written; no listing shows them."""

READ_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
"""Ends of the names of files that loading a model reads."""


class FileState(NamedTuple):
    """What a listing says of a file."""

    bytes: int
    version: str
    """A tag that changes when the content does."""


@runtime_checkable
class Storage(Protocol):
    """A place that holds files. Every fault is a `StorageError` that names the location."""

    def read_bytes(self, location: str) -> bytes:
        """Read a whole file."""
        ...

    def write_bytes(self, location: str, data: bytes) -> None:
        """Write a file at once: readers see the old content or the new, never a part."""
        ...

    def upload_file(self, source: Path, location: str) -> None:
        """Copy a local file here, with the same promise as `write_bytes`."""
        ...

    def download_file(self, location: str, target: Path) -> None:
        """Copy a file to a local path."""
        ...

    def exists(self, location: str) -> bool:
        """Tell whether there is a file of this name; a folder is not a file."""
        ...

    def list_files(self, location: str) -> dict[str, FileState]:
        """List a folder and all folders below it; an absent folder is empty.

        Returns:
            Name below the folder, with forward slashes, in sorted order -> its state.
        """
        ...

    def delete(self, location: str) -> None:
        """Delete a file or a folder with all below it; absent ones are no error."""
        ...


def scheme(location: str) -> str:
    """Name the kind of a location: `s3`, `package`, `hub`, or empty for a local path."""
    head, separator, _ = location.partition("://")
    return head if separator else ""


def join(location: str, *names: str) -> str:
    """Name something inside a folder.

    Args:
        location: Local path or URI of the folder.
        names: Relative names, with forward slashes; empty ones are left out.

    Raises:
        ConfigError: If a name leads out of the folder.
    """
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise ConfigError(
                f"{name!r} leads out of {location}", repair="use a name inside the folder"
            )
    inner = [name.strip("/") for name in names if name.strip("/")]
    return "/".join([location.rstrip("/"), *inner]) or "/"


def is_local(location: str) -> bool:
    """Return whether a location is a path on this machine rather than a URL."""
    return not scheme(location)
