"""A task's records on the local disk, until MLflow has them.

Each task has a folder: `records.jsonl` with one record a line, in order; `files/` with the files
that they refer to; `sent.json` with the offset up to which MLflow has them; `refused.jsonl` with
the records that it refused; and `deferred.jsonl` with those whose files its artifact store does not
accept yet.
"""

import errno
import fcntl
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advgrpo.errors import TrackingError
from advgrpo.redaction import redact
from advgrpo.storage.files import write_bytes
from advgrpo.storage.local import disk_errors

RECORDS_FILE = "records.jsonl"
_RUN_FILE = "run.json"
_SENT_FILE = "sent.json"
_REFUSED_FILE = "refused.jsonl"
_DEFERRED_FILE = "deferred.jsonl"

Record = Mapping[str, Any]
"""A record: `kind`, `timestamp_ms` and the fields of that kind."""


@dataclass(frozen=True)
class RunKey:
    """Identity of the MLflow run of an outbox."""

    task: str
    parent_run_id: str | None
    experiment: str
    tracking_uri: str | None
    token: str
    """Distinguishes runs without a parent."""

    @property
    def folder_name(self) -> str:
        """Name of the outbox; the same for every attempt of a task of the same parent."""
        return f"{self.task}-{self.parent_run_id or self.token}"

    def may_be_on(self, tracking_uri: str) -> bool:
        """Return whether the run may be on a server, whose address may have changed."""
        return self.parent_run_id is not None or self.tracking_uri == tracking_uri


@dataclass(frozen=True)
class Pending:
    """A record that is not in MLflow yet."""

    record: Record
    end: int
    """Offset of its end in the file, in bytes."""


class Outbox:
    """The records of one task.

    Args:
        folder: The outbox's folder.
        key: Identity of the run; None reads it from the folder.

    Raises:
        TrackingError: If the folder is damaged.
        StorageError: If it cannot be written.
    """

    def __init__(self, folder: Path, key: RunKey | None = None) -> None:
        self.folder = folder
        self._records = folder / RECORDS_FILE
        self._writing = threading.Lock()
        # An existing file wins: the identity of the run never changes.
        if not (folder / _RUN_FILE).exists():
            # `outboxes` passes no key: it only reopens existing folders.
            if key is None:
                raise TrackingError(
                    f"{folder} is not an outbox", repair="use the folder of an outbox"
                )
            write_bytes(str(folder / _RUN_FILE), json.dumps(vars(key)).encode())
        self.key = RunKey(**_read_json(folder / _RUN_FILE))
        with disk_errors("write", folder):
            (folder / "files").mkdir(exist_ok=True)
            self._records.touch()

    def repair(self) -> None:
        """Remove a truncated last line, which a killed process leaves."""
        with disk_errors("repair", self._records):
            whole = self._records.read_bytes().rpartition(b"\n")
            # The next record would otherwise be appended to the truncated one.
            os.truncate(self._records, len(whole[0]) + len(whole[1]))

    def append(self, kind: str, **values: object) -> None:
        """Append a record atomically."""
        record = {"kind": kind, "timestamp_ms": int(time.time() * 1000), **values}
        line = redact(json.dumps(record)).encode() + b"\n"
        with (
            # System metrics are recorded from another thread.
            self._writing,
            disk_errors("write", self._records),
            self._records.open("ab", buffering=0) as file,
        ):
            start = file.tell()
            # A short write means a full disk: Python raises nothing for an unbuffered file.
            if file.write(line) != len(line):
                # The record must not stay half written: the next one would be appended to it.
                file.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def add_bytes(self, data: bytes, suffix: str) -> str:
        """Store the content of a file for a record.

        Returns:
            Name of the file in `files/`.
        """
        # Unique: equal pictures of two steps must not share a file, which is deleted once sent.
        name = f"{uuid.uuid4().hex}{suffix}"
        write_bytes(str(self.folder / "files" / name), data)
        return name

    def add_copy(self, path: Path) -> str:
        """Store a copy of a file or folder for a record.

        Returns:
            Name of a folder in `files/` with the copy under its own name.
        """
        name = uuid.uuid4().hex
        target = self.folder / "files" / name / path.name
        with disk_errors("copy", path):
            target.parent.mkdir()
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copyfile(path, target)
        return name

    def file(self, name: str) -> Path:
        """Return the path of a record's file."""
        return self.folder / "files" / name

    def remove_file(self, name: str) -> None:
        """Delete a record's file."""
        path = self.file(name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def records(self) -> Iterator[Record]:
        """Read all records, sent or not, in order."""
        return (pending.record for pending in self._read(0))

    def pending(self) -> list[Pending]:
        """Read the records that are not in MLflow yet, in order."""
        return list(self._read(self.sent_bytes))

    def pending_pictures(self) -> list[tuple[str, int, bytes]]:
        """Read the pictures, with name and step, that are not in MLflow yet."""
        pictures = []
        deferred = [record for record, _ in self.deferred()]
        for record in (*deferred, *(pending.record for pending in self.pending())):
            if record["kind"] == "picture":
                # The uploader deletes a file once MLflow has it.
                with suppress(FileNotFoundError):
                    png = self.file(record["file"]).read_bytes()
                    pictures.append((record["name"], record["step"], png))
        return pictures

    @property
    def sent_bytes(self) -> int:
        """Offset up to which MLflow has the records."""
        sent = self.folder / _SENT_FILE
        return int(_read_json(sent)["bytes"]) if sent.exists() else 0

    @property
    def all_read(self) -> bool:
        """Whether MLflow has every record but deferred ones."""
        return self.sent_bytes >= self._records.stat().st_size

    @property
    def all_sent(self) -> bool:
        """Whether MLflow has every record."""
        return self.all_read and not self.deferred()

    def mark_sent(self, end: int) -> None:
        """Record that MLflow has all records up to an offset."""
        write_bytes(str(self.folder / _SENT_FILE), json.dumps({"bytes": end}).encode())

    def refuse(self, record: Record, reason: str) -> None:
        """Set aside a record that MLflow refused."""
        with (
            disk_errors("write", self.folder),
            (self.folder / _REFUSED_FILE).open("ab") as file,
        ):
            file.write(_line(record, reason))

    def deferred(self) -> list[tuple[Record, str]]:
        """Read the records that were set aside to be sent later, with the reasons."""
        path = self.folder / _DEFERRED_FILE
        if not path.exists():
            return []
        with disk_errors("read", path):
            lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        return [(line["record"], line["reason"]) for line in lines]

    def keep_deferred(self, records: Sequence[tuple[Record, str]]) -> None:
        """Replace the records that were set aside to be sent later."""
        lines = [_line(record, reason) for record, reason in records]
        write_bytes(str(self.folder / _DEFERRED_FILE), b"".join(lines))

    @contextmanager
    def lock(self, *, wait: bool) -> Iterator[bool]:
        """Lock the outbox against other uploaders; yield whether the lock is held.

        Args:
            wait: Whether to wait for the lock.
        """
        with disk_errors("lock", self.folder):
            file = (self.folder / "lock").open("a", encoding="utf-8")
        with file:
            try:
                # flock ends with the process, so a killed one leaves no stale lock.
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def _read(self, start: int) -> Iterator[Pending]:
        with disk_errors("read", self._records), self._records.open("rb") as file:
            file.seek(start)
            # A line without an end is still being written, or was truncated by a kill.
            while (line := file.readline()).endswith(b"\n"):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise TrackingError(
                        f"{self._records} is damaged before byte {file.tell()}: {error}",
                        repair="remove that line from the file",
                    ) from error
                yield Pending(record, file.tell())


def outboxes(folder: Path) -> list[Outbox]:
    """Return the outboxes of all tasks in a folder."""
    return [Outbox(path.parent) for path in sorted(folder.glob(f"*/{_RUN_FILE}"))]


def metric_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the metrics of a task, whether or not they were sent to MLflow.

    Args:
        folder: The task's outbox, `TaskRun.folder`.

    Returns:
        Steps and values of each metric, ordered by step; the last value of a step counts.
    """
    curves: dict[str, dict[int, float]] = {}
    for record in Outbox(folder).records():
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                # A dictionary by step, because an interrupted task may have recorded a step twice.
                curves.setdefault(name, {})[record["step"]] = value
    return {name: sorted(steps.items()) for name, steps in curves.items()}


def _line(record: Record, reason: str) -> bytes:
    return json.dumps({"reason": redact(reason), "record": record}).encode() + b"\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrackingError(f"{path} cannot be read: {error}", repair=f"delete {path}") from error
    if not isinstance(content, dict):
        raise TrackingError(f"{path} is not a JSON object", repair=f"delete {path}")
    return content
