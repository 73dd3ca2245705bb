"""Journals of an incomplete folder of reference images, from which generation resumes.

Each worker appends to its own journal; the first worker reads them all.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from advgrpo.errors import ReferenceImageError
from advgrpo.reference_images.checks import JOURNALS, extra_files
from advgrpo.reference_images.manifest import Origin, read_provenance
from advgrpo.storage.base import PARTIAL_PREFIX
from advgrpo.storage.files import list_files, write_bytes
from advgrpo.storage.local import disk_errors
from advgrpo.strict_json import load_json

JOURNAL_FILE = "journal.jsonl"
"""The set's origin, then one `[file name, SHA-256]` per line; deleted when the set is complete."""


def resume_folder(folder: Path, origin: Origin, names: Collection[str]) -> dict[str, str]:
    """Return the images that earlier workers wrote, after removing partial files.

    Args:
        folder: The set: empty, incomplete or complete. All journals are merged into one.
        origin: Source and settings of the set now.
        names: All files of the set.

    Returns:
        File name -> SHA-256 of each file whose content is the recorded one.

    Raises:
        ReferenceImageError: If the folder holds images of another origin or of other prompts.
        StorageError: If the folder cannot be read or written.
    """
    with disk_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(f"{PARTIAL_PREFIX}*"):
            partial.unlink()
    # Both checks precede the new journal, so that a refused folder keeps its own.
    recorded = _read_recorded(folder, origin)
    _refuse_others(folder, names)
    intact = _select_intact(folder, recorded)
    main = folder / JOURNAL_FILE
    lines = [origin.model_dump_json(), *map(json.dumps, intact.items())]
    write_bytes(str(main), "".join(f"{line}\n" for line in lines).encode())
    # Only after the merged journal is written, so that no entry is lost.
    for path in folder.glob(JOURNALS):
        if path != main:
            path.unlink()
    return intact


def read_journals(folder: Path) -> dict[str, str]:
    """Return what all workers recorded: file name -> SHA-256."""
    recorded: dict[str, str] = {}
    for path in sorted(folder.glob(JOURNALS)):
        with disk_errors("read", path):
            recorded |= _parse_entries(path.read_bytes().partition(b"\n")[2])
    return recorded


def remove_journals(folder: Path) -> None:
    """Delete the journals of a complete set."""
    for path in folder.glob(JOURNALS):
        with disk_errors("delete", path):
            path.unlink()


class Journal:
    """Record of the images of one worker; a context manager.

    Args:
        folder: The set, after `resume_folder`.
        origin: Source and settings of the set.
        worker: Number of the worker.

    Raises:
        StorageError: If the folder cannot be written.
    """

    def __init__(self, folder: Path, origin: Origin, worker: int) -> None:
        # The journal of worker 0 is the merged one, which has its origin already.
        self._path = folder / (f"journal-{worker}.jsonl" if worker else JOURNAL_FILE)
        with disk_errors("write", self._path):
            self._file = self._path.open("a", encoding="utf-8")
            if worker:
                self._file.write(f"{origin.model_dump_json()}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing flushes the buffer, which fails on a full disk.
        with disk_errors("write", self._path):
            self._file.close()

    def add(self, sha256: Mapping[str, str]) -> None:
        """Record written files.

        Raises:
            StorageFullError: If the disk is full.
        """
        with disk_errors("write", self._path):
            self._file.writelines(f"{json.dumps(entry)}\n" for entry in sha256.items())
            # A killed process would lose buffered entries of images that are on the disk.
            self._file.flush()


def _read_recorded(folder: Path, origin: Origin) -> dict[str, str]:
    recorded: dict[str, str] = {}
    complete = read_provenance(folder)
    # A complete set without journals may grow by prompts or variations.
    if complete is not None:
        refuse_changes(str(folder), complete, origin)
        recorded |= complete.files
    for path in sorted(folder.glob(JOURNALS)):
        with disk_errors("read", path):
            first, _, rest = path.read_bytes().partition(b"\n")
        try:
            refuse_changes(str(folder), Origin.model_validate_json(first), origin)
        except ValidationError as error:
            raise ReferenceImageError(
                f"{path} is damaged: {error.errors()[0]['msg']}",
                repair="generate into another folder, or delete this one",
            ) from error
        recorded |= _parse_entries(rest)
    return recorded


def _parse_entries(lines: bytes) -> dict[str, str]:
    entries: dict[str, str] = {}
    for line in lines.splitlines():
        try:
            entry = load_json(line)
        except ValueError:
            entry = None
        match entry:
            case [str(name), str(sha256)]:
                entries[name] = sha256
            case _:
                # Damaged by a full disk or a power failure; the image is generated again.
                continue
    return entries


def refuse_changes(where: str, former: Origin, now: Origin) -> None:
    """Raise an error if a set cannot be resumed because its settings changed.

    Raises:
        ReferenceImageError: If so. Names each change.
    """
    before, after = _flat(former), _flat(now)
    changed = [
        f"{key} was {before.get(key)!r} and is {after.get(key)!r}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]
    if changed:
        raise ReferenceImageError(
            f"{where} holds reference images that were generated with other settings: "
            + "; ".join(changed),
            repair="generate into another folder, delete this one, or restore the settings",
        )


def _flat(origin: Origin) -> dict[str, object]:
    source = {f"source.{key}": value for key, value in origin.source.items()}
    return {"seed": origin.seed, "resolution_pixels": origin.resolution_pixels, **source}


def _refuse_others(folder: Path, names: Collection[str]) -> None:
    others = extra_files(list_files(str(folder)), names)
    if others:
        raise ReferenceImageError(
            f"{folder} holds {len(others)} images of other prompts, variations or formats than the "
            f"settings name, for instance {others[0]}",
            repair="generate into another folder, delete this one, or restore the prompts, "
            "images_per_prompt and file_format; a set can grow, but not shrink",
        )


def _select_intact(folder: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:
        # Hashing releases the GIL.
        results = pool.map(lambda item: _is_intact(folder / item[0], item[1]), recorded.items())
    return {name: recorded[name] for name, ok in zip(recorded, results, strict=True) if ok}


def _is_intact(path: Path, sha256: str) -> bool:
    with disk_errors("read", path):
        # `_replace_file` does not call fsync, so a file may be empty after a power failure.
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
