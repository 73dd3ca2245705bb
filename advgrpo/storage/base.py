"""The storage interface, which local disks and S3 servers implement."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

PARTIAL_PREFIX = ".partial-"
"""Prefix of the names of files and folders that are still being written; listings skip them."""

READ_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Suffixes of the files that loading a model reads."""


class FileState(NamedTuple):
    """Size and version of a listed file."""

    bytes: int
    version: str
    """A tag that changes when the content does."""


@runtime_checkable
class Storage(Protocol):
    """A backend for files. Every failure is a `StorageError` that names the location."""

    def read_bytes(self, location: str) -> bytes:
        """Read a whole file."""
        ...

    def write_bytes(self, location: str, data: bytes) -> None:
        """Write a file atomically: readers see the old content or the new one."""
        ...

    def upload_file(self, source: Path, location: str) -> None:
        """Copy a local file to a location, atomically like `write_bytes`."""
        ...

    def download_file(self, location: str, target: Path) -> None:
        """Copy a file to a local path."""
        ...

    def exists(self, location: str) -> bool:
        """Return whether a file exists; a folder is not a file."""
        ...

    def list_files(self, location: str) -> dict[str, FileState]:
        """List a folder recursively; a missing folder is empty.

        Returns:
            State of each file by its name below the folder, with forward slashes, sorted.
        """
        ...

    def delete(self, location: str) -> None:
        """Delete a file, or a folder recursively; a missing one is not an error."""
        ...
