"""Checkpoints: all state of a run, as safetensors and JSON, written whole or not at all."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from advgrpo.errors import CheckpointError
from advgrpo.storage import COMMIT_FILE, delete, download_folder, join, list_files, upload_folder

STATE_FILE = "state.json"
_NAME = re.compile(r"turn-(\d{8})/" + re.escape(COMMIT_FILE))


@dataclass(frozen=True)
class Checkpoint:
    """State after a number of turns."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """Part of the state -> name -> tensor, for instance `policy`, `average`, `replay`."""

    facts: Mapping[str, Any]
    """Counters and measures, as JSON holds them."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        location: Local folder or `s3://` location.
        run_digest: Hash of the run's settings and inputs; others' checkpoints are refused.
        kept: Newest checkpoints that are kept.
        scratch: Local folder for files on their way.
    """

    def __init__(self, location: str, *, run_digest: str, kept: int, scratch: Path) -> None:
        self.location = location
        self._digest, self._kept, self._scratch = run_digest, kept, scratch

    def save(self, turn: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then drop those that are too old.

        Args:
            turn: Turns that were taken.
            checkpoint: The state.

        Raises:
            StorageError: If it cannot be written; earlier checkpoints are intact.
        """
        folder = self._scratch / f"turn-{turn:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            for part, tensors in checkpoint.tensors.items():
                contiguous = {name: value.contiguous() for name, value in tensors.items()}
                save_file(contiguous, folder / f"{part}.safetensors")
            record = {"run": self._digest, "turn": turn, "facts": dict(checkpoint.facts)}
            (folder / STATE_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
            upload_folder(folder, self._place(turn))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for old in self.turns()[: -self._kept]:
            delete(self._place(old))

    def turns(self) -> list[int]:
        """List the whole checkpoints, oldest first."""
        matches = (_NAME.fullmatch(name) for name in list_files(self.location))
        return sorted(int(match.group(1)) for match in matches if match)

    def load_newest(self, rank: int) -> Checkpoint | None:
        """Read the newest checkpoint, if there is one.

        Args:
            rank: This process; each fetches a copy of its own.

        Raises:
            CheckpointError: If it is damaged or belongs to another run.
            StorageError: If it cannot be fetched.
        """
        turns = self.turns()
        if not turns:
            return None
        place = self._place(turns[-1])
        folder = self._scratch / f"resume-{rank}"
        download_folder(place, folder)
        try:
            record = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            parts = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"checkpoint {place} is damaged: {error}",
                repair="delete it; the run then goes on from the one before",
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if record["run"] != self._digest:
            raise CheckpointError(
                f"checkpoint {place} belongs to a run with other settings or inputs",
                repair="give the run another place for checkpoints, or take its old settings back",
            )
        return Checkpoint(tensors=parts, facts=record["facts"])

    def _place(self, turn: int) -> str:
        return join(self.location, f"turn-{turn:08d}")
