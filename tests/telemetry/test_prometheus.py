import json
import logging
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from advgrpo.errors import ConfigError
from advgrpo.telemetry.prometheus import (
    LAUNCHER,
    PORT,
    PUSH_GATEWAY,
    WEBHOOK,
    push_janitor_metrics,
    record_job_state,
    record_line,
    serve_metrics,
)
from tests.pushgateway import gateway


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _value(name: str, **labels: str) -> float | None:
    return LAUNCHER.get_sample_value(name, labels)


def _url(port: int | None) -> str:
    return f"http://localhost:{port}/metrics"


def _line(event: str, **fields: object) -> str:
    time = "2026-01-02T03:04:05.000+00:00"
    return json.dumps({"time": time, "event": event, "message": "", **fields})


def test_without_a_port_nothing_is_served() -> None:
    with serve_metrics(LAUNCHER) as port:
        assert port is None


def test_metrics_are_served_until_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT, str(_free_port()))
    record_job_state("train", "running", ["starting", "running"])
    with serve_metrics(LAUNCHER) as port:
        url = _url(port)
        with urllib.request.urlopen(url) as answer:
            page = answer.read().decode()
    assert 'advgrpo_launcher_job_state{state="running",task="train"} 1.0' in page
    assert 'advgrpo_launcher_job_state{state="starting",task="train"} 0.0' in page
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)


def test_a_port_in_use_is_not_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(PORT, str(_free_port()))
    with serve_metrics(LAUNCHER) as first, serve_metrics(WEBHOOK) as second:
        assert first is not None
        assert second is None
    assert "cannot serve metrics at port" in caplog.text


@pytest.mark.parametrize("text", ["many", "-1", "65536"])
def test_an_invalid_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT, text)
    with pytest.raises(ConfigError, match=f"{PORT}={text}"), serve_metrics(LAUNCHER):
        pass


def test_progress_is_read_from_a_trainings_lines() -> None:
    run = {"run": "progress"}
    saved = {"update": 4, "updates": 9, "seconds": 2.5, "reward": 0.5, "loss": "nan"}
    record_line(_line("update_finished", **run, **saved))
    record_line(_line("checkpoint_saved", **run, update=3))
    record_line(_line("alarm_raised", **run, update=3))
    moment = 1767323045.0
    assert _value("advgrpo_training_updates", **run) == 4
    assert _value("advgrpo_training_updates_planned", **run) == 9
    assert _value("advgrpo_training_update_seconds", **run) == 2.5
    assert _value("advgrpo_training_last_update_timestamp_seconds", **run) == moment
    assert _value("advgrpo_training_checkpoint_updates", **run) == 3
    assert _value("advgrpo_training_last_checkpoint_timestamp_seconds", **run) == moment
    assert _value("advgrpo_training_alarms_total", **run) == 1
    record_line(_line("resumed", **run, update=2))
    assert _value("advgrpo_training_updates", **run) == 2
    assert _value("advgrpo_training_checkpoint_updates", **run) == 2


def test_a_training_without_a_checkpoint_has_saved_no_update() -> None:
    run = {"run": "never saved"}
    record_line(_line("update_finished", **run, update=1, updates=9, seconds=1, reward=0, loss=0))
    assert _value("advgrpo_training_checkpoint_updates", **run) == 0
    assert _value("advgrpo_training_alarms_total", **run) == 0


def test_a_page_has_the_metrics_of_its_process_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for registry, kinds in ((LAUNCHER, {"launcher", "training"}), (WEBHOOK, {"webhook"})):
        monkeypatch.setenv(PORT, str(_free_port()))
        record_line(_line("update_finished", run="a", update=1))
        with serve_metrics(registry) as port, urllib.request.urlopen(_url(port)) as answer:
            names = re.findall(r"^# TYPE (\w+)", answer.read().decode(), re.MULTILINE)
        assert {name.split("_")[1] for name in names if name.startswith("advgrpo_")} == kinds
        assert "process_resident_memory_bytes" in names
        assert not [name for name in names if name.endswith("_created")]


@pytest.mark.parametrize("line", ["", "words", "{", '{"event": "update_finished"}', _line("other")])
def test_other_lines_are_ignored(line: str) -> None:
    before = _samples()
    record_line(line)
    assert _samples() == before


def _samples() -> set[tuple[str, float]]:
    return {
        (f"{sample.name}{sample.labels}", sample.value)
        for family in LAUNCHER.collect()
        if family.name.startswith("advgrpo_training")
        for sample in family.samples
        if sample.value == sample.value
    }


def test_the_janitor_pushes_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway() as (url, taken):
        monkeypatch.setenv(PUSH_GATEWAY, url)
        push_janitor_metrics("research", jobs=3, kept=1, deleted=2, failed=0)
    ((path, body),) = taken
    assert path == "/metrics/job/advgrpo-janitor/namespace/research"
    assert "advgrpo_janitor_jobs 3.0" in body
    assert "advgrpo_janitor_jobs_deleted 2.0" in body
    assert "advgrpo_janitor_last_run_timestamp_seconds" in body


def test_an_unavailable_gateway_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(PUSH_GATEWAY, f"http://localhost:{_free_port()}")
    with caplog.at_level(logging.WARNING):
        push_janitor_metrics("research", jobs=3, kept=1, deleted=2, failed=0)
    assert f"{PUSH_GATEWAY}=http://localhost" in caplog.text


def test_without_a_gateway_nothing_is_pushed(caplog: pytest.LogCaptureFixture) -> None:
    push_janitor_metrics("research", jobs=3, kept=1, deleted=2, failed=0)
    assert caplog.text == ""


def test_the_page_for_operators_names_every_metric_and_no_other() -> None:
    page = Path(__file__).parents[2] / "docs" / "operating.md"
    named = set(re.findall(r"\badvgrpo_[a-z_]+\b", page.read_text(encoding="utf-8")))
    pushed = {"jobs", "jobs_kept", "jobs_deleted", "jobs_failed", "last_run_timestamp_seconds"}
    served = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for registry in (LAUNCHER, WEBHOOK)
        for family in registry.collect()
        if family.name.startswith("advgrpo_")
    }
    assert named == served | {f"advgrpo_janitor_{name}" for name in pushed}
