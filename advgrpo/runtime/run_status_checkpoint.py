"""The newest checkpoint of a run."""

from collections.abc import Sequence
from pathlib import Path

from advgrpo.errors import AdvGrpoError
from advgrpo.runtime.run_status import CheckpointStatus, TaskStatus
from advgrpo.storage.files import storage_for
from advgrpo.storage.locations import join, scheme

_COMMIT = "/commit.json"


def newest_checkpoint(
    tasks: Sequence[TaskStatus], recorded: str, workspace: str
) -> tuple[CheckpointStatus | None, tuple[str, ...]]:
    """Return the newest checkpoint, and why it cannot be read.

    Args:
        tasks: Status of the tasks.
        recorded: The workspace, as the run's processes name it; empty if it is not recorded.
        workspace: The workspace, as this process names it.
    """
    last = next((task.checkpoint for task in tasks if task.checkpoint), None)
    if last is None:
        return None, ()
    place = last.place
    # On another machine the run may have named the same folder by another path.
    if recorded and workspace and place.startswith(f"{recorded}/"):
        place = workspace + place.removeprefix(recorded)
    if not _is_within(place, workspace):
        # Everyone who may write a heartbeat could make us list any other folder.
        return None, (f"checkpoints: {place} is not in {workspace or 'a workspace'}",)
    try:
        files = storage_for(place).list_files(place)
    except AdvGrpoError as error:
        return None, (f"checkpoints: {error.message}",)
    committed = sorted(
        name.removesuffix(_COMMIT)
        for name in files
        # The same folder holds dumps of rollouts with non-finite values.
        if name.startswith("rollout-") and name.endswith(_COMMIT)
    )
    if not committed:
        return None, ()
    # Numbers are padded with zeros, so the order of texts is that of rollouts.
    newest = committed[-1]
    rollout = int(newest.rpartition("-")[2])
    is_last = rollout == last.rollout
    return CheckpointStatus(
        location=join(place, newest),
        rollout=rollout,
        update=last.update if is_last else None,
        saved=last.at if is_last and last.event == "checkpoint_saved" else None,
        bytes=sum(state.bytes for name, state in files.items() if name.startswith(f"{newest}/")),
    ), ()


def _is_within(place: str, folder: str) -> bool:
    if scheme(place) or scheme(folder):
        return place.startswith(f"{folder.rstrip('/')}/")
    # Resolved: `..` and links may lead out of the folder.
    return bool(folder) and Path(place).resolve().is_relative_to(Path(folder).resolve())
