from pathlib import Path

import pytest

from advgrpo.runtime.results import (
    find_result,
    read_history,
    result_folder,
    write_history,
    write_metrics,
)


def _finish(location: Path) -> None:
    with result_folder(str(location)) as folder:
        write_metrics(folder, {"accuracy": 0.5})
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights").write_text("weights")


def test_a_finished_result_has_its_metrics(tmp_path: Path) -> None:
    _finish(tmp_path / "result")
    result = find_result(str(tmp_path / "result"))
    assert result is not None
    assert result.metrics == {"accuracy": 0.5}


def test_an_unfinished_result_is_none(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), result_folder(str(tmp_path / "result")) as folder:
        write_metrics(folder, {"accuracy": 0.5})
        raise KeyboardInterrupt
    assert find_result(str(tmp_path / "result")) is None


def test_a_part_of_a_result_can_be_copied(tmp_path: Path) -> None:
    _finish(tmp_path / "result")
    result = find_result(str(tmp_path / "result"))
    assert result is not None
    result.copy(tmp_path / "copy" / "adapter", "adapter")
    result.copy(tmp_path / "copy" / "file", "adapter/weights")
    assert (tmp_path / "copy" / "adapter" / "weights").read_text() == "weights"
    assert (tmp_path / "copy" / "file").read_text() == "weights"


def test_metrics_are_written_as_json(tmp_path: Path) -> None:
    _finish(tmp_path / "result")
    result = find_result(str(tmp_path / "result"))
    assert result is not None
    assert result.write_metrics(str(tmp_path / "metrics")) == {"accuracy": 0.5}
    assert "accuracy" in (tmp_path / "metrics").read_text()


def test_a_history_is_read_back(tmp_path: Path) -> None:
    rows = [{"step": 1.0, "loss": 0.5}, {"step": 2.0, "loss": 0.25}]
    write_history(tmp_path, rows)
    assert read_history(tmp_path) == rows
