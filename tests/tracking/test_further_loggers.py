"""The setting `tracking.also`: TensorBoard and Weights & Biases besides MLflow."""

import io
import logging
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from advgrpo.errors import ConfigError, TrackingError
from advgrpo.tracking import further_loggers as module
from advgrpo.tracking.further_loggers import check_further_loggers, further_loggers


def _png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


def _train(names: list[str], folder: str, updates: range, key: str = "abc") -> None:
    """Log as a training that resumed from update 0, whose history it logs again."""
    with further_loggers(names, folder=folder, key=key, settings={"seed": 1}) as loggers:
        for logger in loggers:
            for update in updates:
                logger.metrics({"loss": update / 2}, update)
            logger.metrics({"odd": math.nan, "worse": math.inf}, updates[-1])
            logger.picture("held out/images", updates[-1], _png())


def test_tensorboard_reads_each_step_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _train(["tensorboard"], str(tmp_path), range(3))
    # Killed in the middle of a write.
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b"\0\0")
    _train(["tensorboard"], str(tmp_path), range(5))
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(n, n / 2) for n in range(5)]
    assert [e.step for e in read.Images("held out/images")] == [2, 4]
    assert all(math.isnan(e.value) for e in read.Scalars("odd"))
    assert [e.value for e in read.Scalars("worse")] == [math.inf, math.inf]


def _records(file: Path) -> Iterator[bytes]:
    """Read a file of wandb: a header, then the log format of LevelDB."""
    content, position, record = file.read_bytes(), 7, b""
    while position < len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + size]
        position += 7 + size
        # 1 is a whole record, 4 the last part of one.
        if kind in {1, 4}:
            yield record
            record = b""


def test_wandb_records_metrics_pictures_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    _train(["wandb"], "", range(3))
    (file,) = tmp_path.glob("wandb/offline-run-*-abc/run-abc.wandb")
    records = [Record.FromString(record) for record in _records(file)]
    rows = [
        {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(row["_step"], row["loss"]) for row in rows] == [("0", "0"), ("1", "0.5"), ("2", "1")]
    assert (rows[2]["odd"], rows[2]["worse"]) == ("NaN", "Infinity")
    assert list(tmp_path.rglob("*.png"))
    (run,) = (record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.run_id, run.project) == ("abc", "advgrpo")
    assert {item.key: item.value_json for item in run.config.update}["seed"] == '"1"'


def test_a_logger_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="also=wandb: needs the package") as refusal:
        check_further_loggers(["wandb"])
    assert refusal.value.repair.startswith("pip install 'advgrpo[wandb]'")


class _Broken:
    calls = 0

    def __init__(self, _folder: str) -> None:
        pass

    def metrics(self, *_: object) -> None:
        _Broken.calls += 1
        raise OSError("disk full")

    picture = close = metrics


def test_a_failing_logger_does_not_end_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "resolve_name", lambda _: _Broken)
    with caplog.at_level(logging.WARNING, "advgrpo"):
        _train(["tensorboard"], "", range(3))
    assert _Broken.calls == 1
    assert "tensorboard failed and gets nothing more: disk full" in caplog.text


def test_a_logger_that_cannot_be_opened_is_an_error_with_a_repair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(key: str, _settings: object) -> None:
        raise OSError(f"{key}: no API key")

    monkeypatch.setattr(module, "resolve_name", lambda _: refuse)
    with pytest.raises(TrackingError, match="abc: no API key") as refusal:
        _train(["wandb"], "", range(1))
    assert "WANDB_API_KEY" in refusal.value.repair
