"""Checkpoints: all state of a run, as safetensors and JSON, written whole or not at all."""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from advgrpo.errors import CheckpointError, StorageDamagedError, StorageNotFoundError
from advgrpo.storage import COMMIT_FILE, delete, download_folder, join, list_files, upload_folder
from advgrpo.storage.local import disk_errors
from advgrpo.storage.tensors import read_tensors, save_tensors
from advgrpo.strict_json import load_json_object
from advgrpo.telemetry.logging import event

STATE_FILE = "state.json"
UNSENT = "unsent_pictures"
"""Part of the state: pictures that MLflow did not have when it was written."""

logger = logging.getLogger("advgrpo")

_NAME = re.compile(r"turn-(\d{8})/(.*)")


@dataclass(frozen=True)
class Checkpoint:
    """State after a number of turns."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """Part of the state -> name -> tensor, for instance `policy`, `average`, `replay`."""

    facts: Mapping[str, Any]
    """Counters and measures, as JSON holds them."""

    turn: int
    """Turns that were taken."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        location: Local folder or `s3://` location.
        run_digest: Hash of the run's settings, weights and inputs; others' checkpoints are refused.
        kept: Newest checkpoints that are kept.
        scratch: Local folder for files on their way.
    """

    def __init__(self, location: str, *, run_digest: str, kept: int, scratch: Path) -> None:
        self.location = location
        self._digest, self._kept, self._scratch = run_digest, kept, scratch
        self._damaged: set[int] = set()
        self._newest: int | None = None
        """Turn of the checkpoint that this process read or wrote last."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then drop those that are too old, or were found to be damaged.

        One that is there already, because a run is asked to stop before it came any further, is
        left alone: while it was written anew, a kill would destroy it.

        Args:
            checkpoint: The state.

        Raises:
            StorageError: If it cannot be written; earlier checkpoints are intact.
        """
        turn = checkpoint.turn
        if turn == self._newest:
            return
        folder = self._scratch / f"turn-{turn:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        record = {"run": self._digest, "turn": turn, "facts": dict(checkpoint.facts)}
        try:
            with disk_errors("write", folder):
                folder.mkdir(parents=True)
                for part, tensors in checkpoint.tensors.items():
                    contiguous = {name: value.contiguous() for name, value in tensors.items()}
                    save_tensors(contiguous, folder / f"{part}.safetensors")
                (folder / STATE_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
            upload_folder(folder, self._place(turn))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._newest = turn
        self._damaged.discard(turn)
        self._drop_others()

    def _drop_others(self) -> None:
        sound = [turn for turn in self.turns() if turn not in self._damaged]
        for turn in sorted(self._files().keys() - set(sound[-self._kept :])):
            # First the list: what is half deleted counts as never written.
            delete(join(self._place(turn), COMMIT_FILE))
            delete(self._place(turn))

    def turns(self) -> list[int]:
        """List the whole checkpoints, oldest first."""
        return sorted(turn for turn, names in self._files().items() if COMMIT_FILE in names)

    def _files(self) -> dict[int, set[str]]:
        """List the files of each turn's folder, whole or not."""
        files: dict[int, set[str]] = {}
        for name in list_files(self.location):
            if match := _NAME.fullmatch(name):
                files.setdefault(int(match[1]), set()).add(match[2])
        return files

    def load_newest(self, rank: int, *, last: int | None = None) -> Checkpoint | None:
        """Read the newest checkpoint that is sound, if there is one at all.

        What is wrong with a damaged one is logged, and the one before is taken.

        Args:
            rank: This process; each fetches a copy of its own.
            last: Newer checkpoints than the one of this turn are passed over.

        Raises:
            CheckpointError: If all are damaged, or the newest belongs to another run.
            StorageError: If one cannot be fetched.
        """
        turns = self.turns()
        if last is not None:
            # What another process could not read is not kept in a newer one's stead.
            self._damaged |= {turn for turn in turns if turn > last}
            turns = [turn for turn in turns if turn <= last]
        for turn in reversed(turns):
            try:
                checkpoint = self._load(turn, rank)
            except (StorageDamagedError, StorageNotFoundError) as error:
                self._damaged.add(turn)
                logger.warning(
                    "checkpoint turn-%08d is damaged and passed over: %s",
                    turn,
                    error.message,
                    extra=event("checkpoint_passed_over", turn=turn, place=self._place(turn)),
                )
            else:
                self._newest = turn
                return checkpoint
        if turns:
            raise CheckpointError(
                f"none of the {len(turns)} checkpoints in {self.location} is sound",
                repair="restore the files that the warnings above name, or delete the folder to "
                "train from the start",
            )
        return None

    def _load(self, turn: int, rank: int) -> Checkpoint:
        place, folder = self._place(turn), self._scratch / f"resume-{rank}"
        try:
            download_folder(place, folder)
            record = load_json_object((folder / STATE_FILE).read_text(encoding="utf-8"))
            run, facts = record["run"], record["facts"]
            if not isinstance(facts, dict):
                raise ValueError(f"{STATE_FILE} holds no facts")
            parts = {path.stem: read_tensors(path) for path in sorted(folder.glob("*.safetensors"))}
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise StorageDamagedError(f"{place}: {error!r}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if run != self._digest:
            raise CheckpointError(
                f"checkpoint {place} belongs to a run with other settings, weights or inputs",
                repair="give the run another place for checkpoints, or take its old ones back",
            )
        return Checkpoint(tensors=parts, facts=facts, turn=turn)

    def _place(self, turn: int) -> str:
        return join(self.location, f"turn-{turn:08d}")
