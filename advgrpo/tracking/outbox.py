"""What a task wants recorded, on the local disk, until MLflow has it.

A folder per task: `records.jsonl` holds one record a line in the order they were made, `files/`
what they refer to, `sent.json` how much of it MLflow has, `refused.jsonl` what it will not take.
"""

import errno
import fcntl
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advgrpo.errors import TrackingError
from advgrpo.redaction import redact
from advgrpo.storage import write_bytes
from advgrpo.storage.local import disk_errors

RECORDS_FILE = "records.jsonl"
_RUN_FILE = "run.json"
_SENT_FILE = "sent.json"
_REFUSED_FILE = "refused.jsonl"

Record = Mapping[str, Any]
"""A line of the records: `kind`, `timestamp_ms` and what that kind needs."""


@dataclass(frozen=True)
class RunKey:
    """Which MLflow run the records belong to."""

    task: str
    parent_run_id: str | None
    experiment: str
    tracking_uri: str | None
    token: str
    """Tells runs without a parent apart."""

    @property
    def folder_name(self) -> str:
        """Name of the outbox: the same whenever the same task of the same parent runs."""
        return f"{self.task}-{self.parent_run_id or self.token}"

    def may_go_to(self, tracking_uri: str) -> bool:
        """Tell whether the run can be on a server, whose address may have changed meanwhile."""
        return self.parent_run_id is not None or self.tracking_uri == tracking_uri


@dataclass(frozen=True)
class Pending:
    """A record that MLflow does not have."""

    record: Record
    end: int
    """Where it ends in the file, in bytes."""


class Outbox:
    """Records of one task.

    Args:
        folder: Where they lie.
        key: The run they belong to; None takes the one that the folder names.

    Raises:
        TrackingError: If the folder is damaged.
        StorageError: If it cannot be written.
    """

    def __init__(self, folder: Path, key: RunKey | None = None) -> None:
        self.folder = folder
        self._records = folder / RECORDS_FILE
        self._writing = threading.Lock()
        if not (folder / _RUN_FILE).exists():
            if key is None:
                raise TrackingError(f"{folder} is no outbox", repair="name an outbox's folder")
            write_bytes(str(folder / _RUN_FILE), json.dumps(vars(key)).encode())
        self.key = RunKey(**_read_json(folder / _RUN_FILE))
        with disk_errors("write", folder):
            (folder / "files").mkdir(exist_ok=True)
            self._records.touch()

    def repair(self) -> None:
        """Remove a last line that was cut off when its writer was killed."""
        with disk_errors("repair", self._records):
            whole = self._records.read_bytes().rpartition(b"\n")
            os.truncate(self._records, len(whole[0]) + len(whole[1]))

    def append(self, kind: str, **values: object) -> None:
        """Add a record, whole or not at all."""
        record = {"kind": kind, "timestamp_ms": int(time.time() * 1000), **values}
        line = redact(json.dumps(record)).encode() + b"\n"
        with (
            self._writing,
            disk_errors("write", self._records),
            self._records.open("ab", buffering=0) as file,
        ):
            start = file.tell()
            if file.write(line) != len(line):
                file.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def keep_bytes(self, data: bytes, suffix: str) -> str:
        """Keep a file's content for a record.

        Returns:
            Name of the file in `files/`.
        """
        name = f"{uuid.uuid4().hex}{suffix}"
        write_bytes(str(self.folder / "files" / name), data)
        return name

    def keep_copy(self, path: Path) -> str:
        """Keep a copy of a file or folder for a record.

        Returns:
            Name of a folder in `files/` that holds the copy under its own name.
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
        """Find what a record refers to."""
        return self.folder / "files" / name

    def forget(self, name: str) -> None:
        """Delete what a record referred to."""
        path = self.file(name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def records(self) -> Iterator[Record]:
        """Read all records, sent or not, in order."""
        return (pending.record for pending in self._read(0))

    def pending(self) -> list[Pending]:
        """Read the records that MLflow does not have, in order."""
        return list(self._read(self.sent_bytes))

    def pending_pictures(self) -> list[tuple[str, int, bytes]]:
        """Read the pictures, by name and step, that MLflow does not have."""
        pictures = []
        for record in (pending.record for pending in self.pending()):
            if record["kind"] == "picture":
                # The sender deletes a file once MLflow has it.
                with suppress(FileNotFoundError):
                    png = self.file(record["file"]).read_bytes()
                    pictures.append((record["name"], record["step"], png))
        return pictures

    @property
    def sent_bytes(self) -> int:
        """How much of the file MLflow has."""
        sent = self.folder / _SENT_FILE
        return int(_read_json(sent)["bytes"]) if sent.exists() else 0

    @property
    def all_sent(self) -> bool:
        """Whether MLflow has every record."""
        return self.sent_bytes >= self._records.stat().st_size

    def mark_sent(self, end: int) -> None:
        """Note that MLflow has all records up to `end`."""
        write_bytes(str(self.folder / _SENT_FILE), json.dumps({"bytes": end}).encode())

    def refuse(self, record: Record, reason: str) -> None:
        """Set a record aside that MLflow will not take."""
        line = json.dumps({"reason": reason, "record": record}).encode() + b"\n"
        with (
            disk_errors("write", self.folder),
            (self.folder / _REFUSED_FILE).open("ab") as file,
        ):
            file.write(line)

    @contextmanager
    def sole_sender(self, *, wait: bool) -> Iterator[bool]:
        """Say whether no other sender takes these records until the block ends.

        Args:
            wait: Whether to wait for another one to end.
        """
        with disk_errors("lock", self.folder):
            file = (self.folder / "lock").open("a", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def _read(self, start: int) -> Iterator[Pending]:
        with disk_errors("read", self._records), self._records.open("rb") as file:
            file.seek(start)
            while (line := file.readline()).endswith(b"\n"):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise TrackingError(
                        f"{self._records} is damaged before byte {file.tell()}: {error}",
                        repair="remove that line",
                    ) from error
                yield Pending(record, file.tell())


def outboxes(folder: Path) -> list[Outbox]:
    """Find the outboxes of all tasks in a folder."""
    return [Outbox(path.parent) for path in sorted(folder.glob(f"*/{_RUN_FILE}"))]


def metric_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the metrics that a task recorded, whether MLflow has them or not.

    Args:
        folder: The task's outbox, `TaskRun.folder`.

    Returns:
        Metric -> step and value, by step; the last value of a step counts.
    """
    curves: dict[str, dict[int, float]] = {}
    for record in Outbox(folder).records():
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                curves.setdefault(name, {})[record["step"]] = value
    return {name: sorted(steps.items()) for name, steps in curves.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrackingError(f"{path} cannot be read: {error}", repair="delete it") from error
    if not isinstance(content, dict):
        raise TrackingError(f"{path} is damaged", repair="delete it")
    return content
