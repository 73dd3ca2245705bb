"""Where drawn images are kept: a local folder, or an object store."""

import hashlib
import tarfile
import uuid
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, ValidationError

from advgrpo.errors import StorageError
from advgrpo.reference_images.journal import (
    Journal,
    find_drawn,
    journaled,
    refuse_changes,
    remove_journals,
)
from advgrpo.reference_images.manifest import (
    MANIFEST_FILE,
    PROVENANCE_FILE,
    Origin,
    Provenance,
    write_manifest,
    write_provenance,
)
from advgrpo.storage import delete, join, list_files, read_bytes, write_bytes
from advgrpo.storage.base import PARTIAL_PREFIX
from advgrpo.storage.local import disk_errors

PART_PREFIX, PART_SUFFIX = "part-", ".tar"


@runtime_checkable
class ImageStore(Protocol):
    """Keeps a set while it is drawn. `find` and `complete` are the first worker's alone."""

    batches_per_lease: int
    """How many batches are kept together: what an interruption may lose."""

    def find(self, names: Collection[str]) -> dict[str, str]:
        """Find what a former run kept: file name -> SHA-256."""
        ...

    def open(self, worker: int) -> ExitStack:
        """Prepare to keep images, in a context."""
        ...

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Keep images, by file name."""
        ...

    def kept(self) -> dict[str, str]:
        """List what all workers kept: file name -> SHA-256."""
        ...

    def complete(self, files: Mapping[str, tuple[str, ...]], provenance: Provenance) -> None:
        """Write what makes it a set."""
        ...


class FolderShelf:
    """A local folder, one file an image, with a journal while it is half made.

    Args:
        folder: The set.
        origin: What draws it.
    """

    batches_per_lease = 1

    def __init__(self, folder: Path, origin: Origin) -> None:
        self._folder, self._origin = folder, origin
        self._journal: Journal | None = None

    def find(self, names: Collection[str]) -> dict[str, str]:
        """Find what is whole; see `find_drawn`."""
        return find_drawn(self._folder, self._origin, names)

    def open(self, worker: int) -> ExitStack:
        """Open this worker's journal."""
        stack = ExitStack()
        self._journal = stack.enter_context(Journal(self._folder, self._origin, worker))
        return stack

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write images, then their hashes."""
        assert self._journal is not None
        for name, data in files.items():
            _replace_file(self._folder / name, data)
        self._journal.add({name: sha256_of(data) for name, data in files.items()})

    def kept(self) -> dict[str, str]:
        """Read all journals."""
        return journaled(self._folder)

    def complete(self, files: Mapping[str, tuple[str, ...]], provenance: Provenance) -> None:
        """Write both lists; the manifest comes last."""
        write_provenance(self._folder, provenance)
        write_manifest(self._folder, files)
        remove_journals(self._folder)


class _Part(BaseModel):
    """What an archive holds; written after it, so that a half-written one counts for nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Origin
    files: dict[str, str]


class PackedShelf:
    """An object store, which takes as long for a small object as for one of a megabyte.

    Images lie in archives of some batches each, so a worker's disk holds nothing of them.

    Args:
        location: Where the archives go.
        origin: What draws the set.
        batches_per_lease: Batches of an archive.
    """

    def __init__(self, location: str, origin: Origin, *, batches_per_lease: int = 8) -> None:
        self.batches_per_lease = batches_per_lease
        self._location, self._origin = location, origin

    def find(self, names: Collection[str]) -> dict[str, str]:
        """Read what each archive holds, and delete those that were not written whole."""
        present = set(list_files(self._location))
        for name in present:
            listing = f"{name.removesuffix(PART_SUFFIX)}.json"
            if name.endswith(PART_SUFFIX) and listing not in present:
                delete(join(self._location, name))
        return {name: sha256 for name, sha256 in self.kept().items() if name in names}

    def open(self, worker: int) -> ExitStack:  # noqa: ARG002 - all workers do alike
        """Nothing has to be prepared."""
        return ExitStack()

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write an archive, then what it holds."""
        self._write(f"{PART_PREFIX}{uuid.uuid4().hex}", files)

    def kept(self) -> dict[str, str]:
        """Read what all archives hold."""
        kept: dict[str, str] = {}
        for name in list_files(self._location):
            if name.startswith(PART_PREFIX) and name.endswith(".json"):
                kept |= self._read(name).files
        return kept

    def complete(self, files: Mapping[str, tuple[str, ...]], provenance: Provenance) -> None:
        """Write both lists as one more archive."""
        with TemporaryDirectory() as folder:
            write_provenance(Path(folder), provenance)
            write_manifest(Path(folder), files)
            lists = {n: Path(folder, n).read_bytes() for n in (PROVENANCE_FILE, MANIFEST_FILE)}
        self._write(f"{PART_PREFIX}lists", lists)

    def _write(self, name: str, files: Mapping[str, bytes]) -> None:
        archive = BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file, data in files.items():
                entry = tarfile.TarInfo(file)
                entry.size = len(data)
                tar.addfile(entry, BytesIO(data))
        write_bytes(join(self._location, f"{name}{PART_SUFFIX}"), archive.getvalue())
        part = _Part(origin=self._origin, files={n: sha256_of(data) for n, data in files.items()})
        write_bytes(join(self._location, f"{name}.json"), part.model_dump_json().encode())

    def _read(self, name: str) -> _Part:
        where = join(self._location, name)
        try:
            part = _Part.model_validate_json(read_bytes(where))
        except ValidationError as error:
            raise StorageError(
                f"{where} is damaged: {error.errors()[0]['msg']}",
                repair="delete it where it lies; what it lists is drawn again",
            ) from error
        refuse_changes(self._location, part.origin, self._origin)
        return part


def sha256_of(data: bytes) -> str:
    """Hash a content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _replace_file(path: Path, data: bytes) -> None:
    # Unlike storage.write_bytes, no wait for the disk: after a power cut, the journal's hashes find
    # a file that did not arrive, and it is drawn again.
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
    with disk_errors("write", path):
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
