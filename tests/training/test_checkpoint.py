from pathlib import Path

import pytest
import torch

from advgrpo.errors import CheckpointError, StorageError, StorageUnavailableError
from advgrpo.storage import upload_folder
from advgrpo.training.checkpoint import Checkpoint, Checkpoints


def checkpoints_in(folder: Path, *, run: str = "run", keep: int = 2) -> Checkpoints:
    return Checkpoints(
        str(folder / "checkpoints"), run_digest=run, keep=keep, scratch=folder / "scratch"
    )


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(
        tensors={"policy": {"w": torch.full((3,), float(number))}},
        metadata={"rollouts": number},
        rollout=number,
    )


def test_the_newest_checkpoint_is_read_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for rollout in (1, 2, 10):
        checkpoints.save(checkpoint(rollout))
    assert checkpoints.rollouts() == [2, 10]
    loaded = checkpoints.load_newest(rank=0)
    assert loaded is not None
    assert loaded.metadata == {"rollouts": 10}
    assert loaded.tensors["policy"]["w"].tolist() == [10.0] * 3


def test_without_a_checkpoint_nothing_is_loaded(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path).load_newest(rank=0) is None


def test_an_incomplete_checkpoint_is_skipped(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(checkpoint(1))
    half = tmp_path / "checkpoints" / "rollout-00000002"
    half.mkdir()
    (half / "policy.safetensors").write_bytes(b"half")
    loaded = checkpoints.load_newest(rank=0)
    assert loaded is not None
    assert loaded.metadata == {"rollouts": 1}


def _file(folder: Path, rollout: int, name: str) -> Path:
    return folder / "checkpoints" / f"rollout-{rollout:08d}" / name


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json", "commit.json"])
@pytest.mark.parametrize("tear", ["flip", "cut", "delete"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, tear: str
) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for rollout in (1, 2):
        checkpoints.save(checkpoint(rollout))
    path = _file(tmp_path, 2, name)
    content = path.read_bytes()
    match tear:
        case "flip":
            path.write_bytes(content[:20] + bytes([content[20] ^ 0xFF]) + content[21:])
        case "cut":
            path.write_bytes(content[:20])
        case "delete":
            path.unlink()
    loaded = checkpoints.load_newest(rank=0)
    assert loaded is not None
    assert loaded.metadata == {"rollouts": 1}
    # Without its list of files a folder was never written whole, which needs no words.
    if (name, tear) != ("commit.json", "delete"):
        assert "checkpoint rollout-00000002 is damaged and skipped" in caplog.text
        assert name in caplog.text


@pytest.mark.parametrize(
    "state",
    [
        '{"metadata": {}}',
        '{"run": "run"}',
        '{"run": "run", "metadata": ""}',
        "[]",
        "5",
        "[" * 50_000,
    ],
)
def test_a_checkpoint_with_a_malformed_state_is_skipped(tmp_path: Path, state: str) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for rollout in (1, 2):
        checkpoints.save(checkpoint(rollout))
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "state.json").write_text(state)
    upload_folder(folder, str(_file(tmp_path, 2, "")))
    loaded = checkpoints.load_newest(rank=0)
    assert loaded is not None
    assert loaded.rollout == 1


def test_a_damaged_checkpoint_does_not_displace_a_sound_one(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path, keep=2)
    for rollout in (1, 3):
        checkpoints.save(checkpoint(rollout))
    _file(tmp_path, 3, "policy.safetensors").write_bytes(b"")
    assert checkpoints.load_newest(rank=0) is not None
    checkpoints.save(checkpoint(4))
    assert checkpoints.rollouts() == [1, 4]


def test_without_a_sound_checkpoint_the_run_does_not_restart_silently(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for rollout in (1, 2):
        checkpoints.save(checkpoint(rollout))
        _file(tmp_path, rollout, "policy.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints") as error:
        checkpoints.load_newest(rank=0)
    assert "delete the folder" in error.value.repair


def test_leftovers_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(checkpoint(1))
    checkpoints.save(checkpoint(2))
    _file(tmp_path, 1, "commit.json").unlink()
    checkpoints_in(tmp_path).save(checkpoint(3))
    folders = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert folders == ["rollout-00000002", "rollout-00000003"]


def test_an_existing_checkpoint_is_not_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints_in(tmp_path).save(checkpoint(1))
    resumed = checkpoints_in(tmp_path)
    loaded = resumed.load_newest(rank=0)
    assert loaded is not None

    def fail(_folder: Path, _location: str) -> None:
        raise AssertionError("a kill would now destroy it")

    monkeypatch.setattr("advgrpo.training.checkpoint.upload_folder", fail)
    resumed.save(loaded)
    assert resumed.rollouts() == [1]


def test_an_unreachable_server_does_not_count_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(checkpoint(1))

    def fail(_location: str, _folder: Path) -> None:
        raise StorageUnavailableError("no answer")

    monkeypatch.setattr("advgrpo.training.checkpoint.download_folder", fail)
    with pytest.raises(StorageUnavailableError, match="no answer"):
        checkpoints.load_newest(rank=0)


def test_checkpoints_after_a_rollout_can_be_excluded(tmp_path: Path) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for rollout in (1, 2):
        checkpoints.save(checkpoint(rollout))
    loaded = checkpoints.load_newest(rank=0, last=1)
    assert loaded is not None
    assert loaded.rollout == 1


def test_a_checkpoint_that_another_process_cannot_read_does_not_displace_a_newer_one(
    tmp_path: Path,
) -> None:
    checkpoints = checkpoints_in(tmp_path)
    for rollout in (1, 5):
        checkpoints.save(checkpoint(rollout))
    again = checkpoints_in(tmp_path, keep=1)
    assert again.load_newest(rank=0, last=1) is not None
    again.save(checkpoint(2))
    assert again.rollouts() == [2]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    checkpoints_in(tmp_path, run="one").save(checkpoint(1))
    with pytest.raises(CheckpointError, match="other settings"):
        checkpoints_in(tmp_path, run="two").load_newest(rank=0)


def test_a_failed_write_leaves_the_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = checkpoints_in(tmp_path)
    checkpoints.save(checkpoint(1))

    def fail(_folder: Path, _location: str) -> None:
        raise StorageError("no room")

    monkeypatch.setattr("advgrpo.training.checkpoint.upload_folder", fail)
    with pytest.raises(StorageError, match="no room"):
        checkpoints.save(checkpoint(2))
    monkeypatch.undo()
    assert checkpoints.rollouts() == [1]
    assert list((tmp_path / "scratch").iterdir()) == []
