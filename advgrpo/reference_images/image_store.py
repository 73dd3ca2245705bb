"""Stores for reference images that are being generated: a local folder, or archives on S3."""

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
    read_journals,
    refuse_changes,
    remove_journals,
    resume_folder,
)
from advgrpo.reference_images.manifest import (
    LISTS_PART,
    MANIFEST_FILE,
    PROVENANCE_FILE,
    Origin,
    Provenance,
    write_manifest,
    write_provenance,
)
from advgrpo.storage.archives import PART_PREFIX, PART_SUFFIX
from advgrpo.storage.base import PARTIAL_PREFIX
from advgrpo.storage.files import delete, list_files, read_bytes, write_bytes
from advgrpo.storage.local import disk_errors
from advgrpo.storage.locations import is_local, join


@runtime_checkable
class ImageStore(Protocol):
    """Storage of an incomplete set; `resume` and `complete` are for the first worker alone."""

    batches_per_lease: int
    """Batches that are saved together, and that an interruption may lose."""

    def resume(self, names: Collection[str]) -> dict[str, str]:
        """Return what an earlier run saved, after removing partial files: file name -> SHA-256."""
        ...

    def open(self, worker: int) -> ExitStack:
        """Return a context in which a worker can save images."""
        ...

    def save(self, files: Mapping[str, bytes]) -> None:
        """Save images, by file name."""
        ...

    def hashes(self) -> dict[str, str]:
        """Return the images that all workers saved: file name -> SHA-256."""
        ...

    def complete(self, files: Mapping[str, tuple[str, ...]], provenance: Provenance) -> None:
        """Write the manifest and the provenance, which turn the images into a set."""
        ...


def open_image_store(location: str | Path, origin: Origin) -> ImageStore:
    """Return the store for a location.

    Args:
        location: A local folder, shared by all workers, or an `s3://` location.
        origin: Source and settings of the set.
    """
    if isinstance(location, Path) or is_local(location):
        return FolderImageStore(Path(location), origin)
    return ArchivedImageStore(location, origin)


class FolderImageStore:
    """A local folder with one file per image, and a journal until the set is complete.

    Args:
        folder: Folder of the set.
        origin: Source and settings of the set.
    """

    batches_per_lease = 1

    def __init__(self, folder: Path, origin: Origin) -> None:
        self._folder, self._origin = folder, origin
        self._journal: Journal | None = None

    def resume(self, names: Collection[str]) -> dict[str, str]:
        """Return the files with the recorded content; see `resume_folder`."""
        return resume_folder(self._folder, self._origin, names)

    def open(self, worker: int) -> ExitStack:
        """Open this worker's journal."""
        stack = ExitStack()
        self._journal = stack.enter_context(Journal(self._folder, self._origin, worker))
        return stack

    def save(self, files: Mapping[str, bytes]) -> None:
        """Write images, then their hashes."""
        assert self._journal is not None
        # The journal comes last: `complete` trusts its hashes without reading the files again.
        for name, data in files.items():
            _replace_file(self._folder / name, data)
        self._journal.add({name: sha256_of(data) for name, data in files.items()})

    def hashes(self) -> dict[str, str]:
        """Read all journals."""
        return read_journals(self._folder)

    def complete(self, files: Mapping[str, tuple[str, ...]], provenance: Provenance) -> None:
        """Write both lists, the manifest last: its presence marks the set as complete."""
        # The journals go last. If the process is killed before, resuming reads them once more.
        write_provenance(self._folder, provenance)
        write_manifest(self._folder, files)
        remove_journals(self._folder)


class _Part(BaseModel):
    """List of an archive's files; written after the archive, so a partial one is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Origin
    files: dict[str, str]


class ArchivedImageStore:
    """Archives of a few batches each in an object store, whose requests cost more than bytes.

    No image is written to the worker's disk.

    Args:
        location: `s3://` location of the archives.
        origin: Source and settings of the set.
        batches_per_lease: Batches per archive.
    """

    def __init__(self, location: str, origin: Origin, *, batches_per_lease: int = 8) -> None:
        self.batches_per_lease = batches_per_lease
        self._location, self._origin = location, origin

    def resume(self, names: Collection[str]) -> dict[str, str]:
        """Read the lists of all archives, and delete archives without one."""
        present = set(list_files(self._location))
        for name in present:
            # A part is its archive and its list, which have the same stem.
            listing = f"{name.removesuffix(PART_SUFFIX)}.json"
            if name.endswith(PART_SUFFIX) and listing not in present:
                delete(join(self._location, name))
        return {name: sha256 for name, sha256 in self.hashes().items() if name in names}

    def open(self, worker: int) -> ExitStack:  # noqa: ARG002 - names are random
        """Return an empty context."""
        return ExitStack()

    def save(self, files: Mapping[str, bytes]) -> None:
        """Write an archive, then its list."""
        # Random names, because workers do not coordinate.
        self._write(f"{PART_PREFIX}{uuid.uuid4().hex}", files)

    def hashes(self) -> dict[str, str]:
        """Read the lists of all archives."""
        hashes: dict[str, str] = {}
        for name in list_files(self._location):
            if name.startswith(PART_PREFIX) and name.endswith(".json"):
                hashes |= self._read(name).files
        return hashes

    def complete(self, files: Mapping[str, tuple[str, ...]], provenance: Provenance) -> None:
        """Write both lists as one more archive."""
        with TemporaryDirectory() as folder:
            write_provenance(Path(folder), provenance)
            write_manifest(Path(folder), files)
            lists = {n: Path(folder, n).read_bytes() for n in (PROVENANCE_FILE, MANIFEST_FILE)}
        # A fixed name, so that the lists of a larger set replace the former ones. The name sorts
        # after those of the other parts, whose hexadecimal digits end at "f".
        self._write(LISTS_PART, lists)

    def _write(self, name: str, files: Mapping[str, bytes]) -> None:
        archive = BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file, data in files.items():
                entry = tarfile.TarInfo(file)
                entry.size = len(data)
                tar.addfile(entry, BytesIO(data))
        # The list comes last: it marks the archive as complete.
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
                repair=f"delete {where}; the images that it lists are generated again",
            ) from error
        refuse_changes(self._location, part.origin, self._origin)
        return part


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _replace_file(path: Path, data: bytes) -> None:
    # Unlike storage.write_bytes, without fsync: after a power failure, a file whose content is not
    # that of the journal is generated again.
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
    with disk_errors("write", path):
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
