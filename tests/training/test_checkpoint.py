from pathlib import Path

import pytest
import torch

from advgrpo.errors import CheckpointError, StorageError
from advgrpo.training.checkpoint import Checkpoint, Checkpoints


def checkpoints_in(folder: Path, *, run: str = "run", kept: int = 2) -> Checkpoints:
    return Checkpoints(
        str(folder / "checkpoints"), run_digest=run, kept=kept, scratch=folder / "scratch"
    )


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(
        tensors={"policy": {"w": torch.full((3,), float(number))}}, facts={"turns": number}
    )


def test_the_newest_checkpoint_is_read_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for turn in (1, 2, 10):
        checkpoints.save(turn, checkpoint(turn))
    assert checkpoints.turns() == [2, 10]
    loaded = checkpoints.load_newest(rank=0)
    assert loaded is not None
    assert loaded.facts == {"turns": 10}
    assert loaded.tensors["policy"]["w"].tolist() == [10.0] * 3


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path).load_newest(rank=0) is None


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(1, checkpoint(1))
    half = tmp_path / "checkpoints" / "turn-00000002"
    half.mkdir()
    (half / "policy.safetensors").write_bytes(b"half")
    loaded = checkpoints.load_newest(rank=0)
    assert loaded is not None
    assert loaded.facts == {"turns": 1}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(1, checkpoint(1))
    path = tmp_path / "checkpoints" / "turn-00000001" / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(StorageError, match=r"policy\.safetensors"):
        checkpoints.load_newest(rank=0)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    checkpoints_in(tmp_path, run="one").save(1, checkpoint(1))
    with pytest.raises(CheckpointError, match="other settings"):
        checkpoints_in(tmp_path, run="two").load_newest(rank=0)


def test_a_failed_write_leaves_the_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(1, checkpoint(1))

    def fail(_folder: Path, _location: str) -> None:
        raise StorageError("no room")

    monkeypatch.setattr("advgrpo.training.checkpoint.upload_folder", fail)
    with pytest.raises(StorageError, match="no room"):
        checkpoints.save(2, checkpoint(2))
    monkeypatch.undo()
    assert checkpoints.turns() == [1]
    assert list((tmp_path / "scratch").iterdir()) == []
