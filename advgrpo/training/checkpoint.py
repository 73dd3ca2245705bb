"""Checkpoints: all training state as safetensors and JSON."""

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
from advgrpo.storage.files import delete, list_files
from advgrpo.storage.folders import COMMIT_FILE, download_folder, upload_folder
from advgrpo.storage.local import disk_errors
from advgrpo.storage.locations import join
from advgrpo.storage.tensors import read_tensors, save_tensors
from advgrpo.strict_json import load_json_object
from advgrpo.telemetry.logging import event

STATE_FILE = "state.json"
UNSENT = "unsent_pictures"
"""Part of the state: pictures that MLflow did not have yet when it was written."""

logger = logging.getLogger("advgrpo")

_NAME = re.compile(r"rollout-(\d{8})/(.*)")


@dataclass(frozen=True)
class Checkpoint:
    """Training state after a number of rollouts."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    """Part of the state -> name -> tensor, for instance `policy`, `average`, `replay`."""

    metadata: Mapping[str, Any]
    """Counters and metrics, as JSON values."""

    rollout: int
    """Rollouts that were generated and used."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        location: Local folder or `s3://` location.
        run_digest: Hash of the run's settings, weights and inputs; checkpoints of other runs are
            refused.
        keep: Newest checkpoints to keep.
        scratch: Local folder for files in transit.
    """

    def __init__(self, location: str, *, run_digest: str, keep: int, scratch: Path) -> None:
        self.location = location
        self._digest, self._keep, self._scratch = run_digest, keep, scratch
        self._damaged: set[int] = set()
        self._newest: int | None = None
        """Number of the checkpoint that this process read or wrote last."""

    def save(self, checkpoint: Checkpoint) -> bool:
        """Write a checkpoint, then delete those that are too old or known to be damaged.

        One that exists already, because the run was stopped before it made progress, is left
        alone: a kill while it is rewritten would destroy it.

        Args:
            checkpoint: The state.

        Returns:
            Whether it was written.

        Raises:
            StorageError: If it cannot be written; earlier checkpoints are intact.
        """
        rollout = checkpoint.rollout
        if rollout == self._newest:
            return False
        folder = self._scratch / f"rollout-{rollout:08d}"
        # A killed attempt may have left files, which would be uploaded, too.
        shutil.rmtree(folder, ignore_errors=True)
        record = {"run": self._digest, "rollout": rollout, "metadata": dict(checkpoint.metadata)}
        try:
            with disk_errors("write", folder):
                folder.mkdir(parents=True)
                for part, tensors in checkpoint.tensors.items():
                    # safetensors refuses views.
                    contiguous = {name: value.contiguous() for name, value in tensors.items()}
                    save_tensors(contiguous, folder / f"{part}.safetensors")
                (folder / STATE_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
            # Writes the commit file last, so that a killed upload is never taken for a checkpoint.
            upload_folder(folder, self._place(rollout))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._newest = rollout
        # What was damaged under this number is overwritten now.
        self._damaged.discard(rollout)
        self._delete_others()
        return True

    def _delete_others(self) -> None:
        # Damaged ones do not count towards `keep`: they would displace the ones that can be
        # resumed.
        sound = [rollout for rollout in self.rollouts() if rollout not in self._damaged]
        for rollout in sorted(self._files().keys() - set(sound[-self._keep :])):
            # The commit file first: without it, a half-deleted checkpoint counts as never written.
            delete(join(self._place(rollout), COMMIT_FILE))
            delete(self._place(rollout))

    def rollouts(self) -> list[int]:
        """List the complete checkpoints, oldest first."""
        return sorted(rollout for rollout, names in self._files().items() if COMMIT_FILE in names)

    def _files(self) -> dict[int, set[str]]:
        """List the files of each checkpoint, complete or not."""
        files: dict[int, set[str]] = {}
        for name in list_files(self.location):
            # Dumps of non-finite values share the location.
            if match := _NAME.fullmatch(name):
                files.setdefault(int(match[1]), set()).add(match[2])
        return files

    def load_newest(self, rank: int, *, last: int | None = None) -> Checkpoint | None:
        """Read the newest sound checkpoint, if there is any.

        A damaged one is logged and the one before is tried.

        Args:
            rank: This process; each downloads its own copy.
            last: Number of the newest checkpoint to consider.

        Raises:
            CheckpointError: If all are damaged, or the newest belongs to another run.
            StorageError: If one cannot be fetched.
        """
        rollouts = self.rollouts()
        if last is not None:
            # Another process could not read these, so they must not displace older sound ones.
            self._damaged |= {rollout for rollout in rollouts if rollout > last}
            rollouts = [rollout for rollout in rollouts if rollout <= last]
        for rollout in reversed(rollouts):
            try:
                checkpoint = self._load(rollout, rank)
            # Other storage errors are raised: a store that is not reachable says nothing about its
            # files, and skipping would lose progress.
            except (StorageDamagedError, StorageNotFoundError) as error:
                self._damaged.add(rollout)
                logger.warning(
                    "checkpoint rollout-%08d is damaged and skipped: %s",
                    rollout,
                    error.message,
                    extra=event(
                        "checkpoint_passed_over", rollout=rollout, place=self._place(rollout)
                    ),
                )
            else:
                self._newest = rollout
                return checkpoint
        if rollouts:
            raise CheckpointError(
                f"none of the {len(rollouts)} checkpoints in {self.location} is sound",
                repair="restore the files that the warnings above name, or delete the folder to "
                "train from the start",
            )
        return None

    def _load(self, rollout: int, rank: int) -> Checkpoint:
        place, folder = self._place(rollout), self._scratch / f"resume-{rank}"
        try:
            download_folder(place, folder)
            record = load_json_object((folder / STATE_FILE).read_text(encoding="utf-8"))
            run, metadata = record["run"], record["metadata"]
            if not isinstance(metadata, dict):
                raise ValueError(f"{STATE_FILE} has no metadata")
            parts = {path.stem: read_tensors(path) for path in sorted(folder.glob("*.safetensors"))}
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise StorageDamagedError(f"{place}: {error!r}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        # Not treated as damage: going back to an older checkpoint would hide that the folder
        # belongs to another run.
        if run != self._digest:
            raise CheckpointError(
                f"checkpoint {place} belongs to a run with other settings, weights or inputs",
                repair="use that run's settings and inputs, or delete its folder of checkpoints",
            )
        return Checkpoint(tensors=parts, metadata=metadata, rollout=rollout)

    def _place(self, rollout: int) -> str:
        return join(self.location, f"rollout-{rollout:08d}")
