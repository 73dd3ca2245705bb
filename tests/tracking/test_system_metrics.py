import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ConfigError, StorageFullError
from advgrpo.tracking import task_run
from advgrpo.tracking.outbox import Outbox
from advgrpo.tracking.runs import open_parent_run
from advgrpo.tracking.system_metrics import INTERVAL, system_metrics

METRICS = {
    "system/cpu_utilization_percentage",
    "system/system_memory_usage_megabytes",
    "system/disk_usage_percentage",
    "system/network_receive_megabytes",
}


class Recorder:
    """Records metrics, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.rows: list[tuple[dict[str, float], int]] = []
        self.calls = 0
        self._error = error

    def __call__(self, values: Mapping[str, float], step: int) -> None:
        self.calls += 1
        if self._error is not None:
            raise self._error
        self.rows.append((dict(values), step))


def test_system_metrics_have_the_names_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0.02")
    recorded, before = Recorder(), int(time.time())
    with system_metrics(recorded):
        while not recorded.rows:
            time.sleep(0.01)
    values, step = recorded.rows[0]
    assert values.keys() >= METRICS
    assert all(name.startswith("system/") for name in values)
    assert before <= step <= time.time()
    count = len(recorded.rows)
    time.sleep(0.1)
    assert len(recorded.rows) == count, "recording continues after the block"


class Hanging:
    """A collector whose driver hangs for a while."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def collect_metrics(self) -> None:
        self.asked.set()
        time.sleep(4)

    def aggregate_metrics(self) -> dict[str, float]:
        return {"late": 1.0}

    def clear_metrics(self) -> None:
        """Nothing to clear."""


def test_a_hanging_driver_does_not_block_the_end_of_the_task(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(INTERVAL, "0.01")
    hanging, recorded = Hanging(), Recorder()
    monkeypatch.setattr("advgrpo.tracking.system_metrics._collectors", lambda: [hanging])
    monkeypatch.setattr("advgrpo.tracking.system_metrics._END_SECONDS", 0.1, raising=False)
    with system_metrics(recorded):
        assert hanging.asked.wait(10)
        ended = time.monotonic()
    assert time.monotonic() - ended < 2
    for thread in threading.enumerate():
        if thread.name == "advgrpo-system-metrics":
            thread.join(10)
    assert recorded.rows == []


def test_an_interval_of_0_disables_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0")
    recorded = Recorder()
    with system_metrics(recorded):
        time.sleep(0.05)
    assert recorded.calls == 0


def test_without_the_packages_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, "0.01")
    monkeypatch.setitem(sys.modules, "mlflow.system_metrics.metrics.cpu_monitor", None)
    recorded = Recorder()
    with system_metrics(recorded):
        time.sleep(0.05)
    assert recorded.calls == 0


def test_a_record_that_cannot_be_written_ends_the_recording_and_not_the_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(INTERVAL, "0.01")
    recorded = Recorder(StorageFullError("the disk is full"))
    with system_metrics(recorded):
        time.sleep(0.1)
    assert recorded.calls == 1
    assert "system metrics are no longer recorded: the disk is full" in caplog.text


@pytest.mark.parametrize("text", ["often", "-1", "nan", "inf"])
def test_an_invalid_interval_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERVAL, text)
    with pytest.raises(ConfigError, match=f"{INTERVAL}={text}"), system_metrics(Recorder()):
        pass


def test_a_resumed_task_sends_system_metrics_of_both_attempts(
    stores: EmbeddedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INTERVAL, "0.05")
    parent = open_parent_run(
        "system metrics",
        "run",
        tracking_uri=stores.tracking_uri,
        parameters={},
        config_text="",
        tags={},
    )
    # The second attempt is on another machine, without the records of the first.
    for folder in ("one", "other"):
        with task_run(
            "train",
            folder=tmp_path / folder,
            parent_run_id=parent,
            tracking_uri=stores.tracking_uri,
        ) as run:
            run.metrics({"reward": 1.0}, step=1)
            end = time.monotonic() + 20
            while time.monotonic() < end and not _has_system_metrics(run.folder):
                time.sleep(0.02)
            run_id = run.run_id()
        time.sleep(1.1)
    client = MlflowClient(stores.tracking_uri)
    steps = {m.step for m in client.get_metric_history(run_id, "system/cpu_utilization_percentage")}
    assert len(steps) >= 2
    assert [m.step for m in client.get_metric_history(run_id, "reward")] == [1]


def _has_system_metrics(folder: Path) -> bool:
    return any(
        name.startswith("system/")
        for record in Outbox(folder).records()
        if record["kind"] == "metrics"
        for name in record["values"]
    )
