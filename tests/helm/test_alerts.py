"""Tests of the chart's alerts.yaml: its rules fire when they should, on metrics that are served.

What needs promtool or Prometheus is skipped where they are not installed; the rest sees that no
rule asks for something that there is not.
"""

import itertools
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from advgrpo.cluster.api import RetryPolicy
from advgrpo.cluster.backends.base import JobState
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.runtime.pipeline_tasks import JOB_TASKS
from advgrpo.telemetry.prometheus import (
    LAUNCHER,
    PODS_RUNNING,
    PODS_WANTED,
    PORT,
    PUSH_GATEWAY,
    RESTARTS,
    WEBHOOK,
    push_janitor_metrics,
    record_job_state,
    record_line,
    serve_metrics,
)
from components.cluster import LABELS
from helm.chart import CHART
from tests.helm.releases import CREATED_SECRETS, objects, pods
from tests.pushgateway import gateway

FILE = CHART / "alerts.yaml"
CASES = Path(__file__).with_name("alerts_test.yaml")
PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
OF_SCRAPING = {"job", "instance"}
"""Labels that Prometheus adds to every series."""

OWN = {"task": "train", "run": "of alerts"}
"""Labels of the recorded series."""

UNITS = {"m": 60, "h": 3600}


def _record_all() -> None:
    """Serve the metrics of a launcher that monitors a training."""
    record_job_state(OWN["task"], "running", [state.value for state in JobState])
    for metric in (PODS_WANTED, PODS_RUNNING, RESTARTS):
        metric.labels(OWN["task"])
    line = {"time": datetime.now(UTC).isoformat(), "message": "", "run": OWN["run"], "update": 1}
    for event in ("update_finished", "checkpoint_saved", "alarm_raised"):
        record_line(json.dumps({**line, "event": event, "updates": 9, "seconds": 1.0}))


def _labels(page: str) -> dict[str, set[str]]:
    """Return the labels of each metric of a page."""
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    _record_all()
    with gateway() as (url, taken):
        monkeypatch.setenv(PUSH_GATEWAY, url)
        push_janitor_metrics("research", jobs=1, kept=1, deleted=0, failed=0)
    ((path, pushed),) = taken
    (grouped,) = re.findall(r"^/metrics/job/[^/]+/(\w+)/[^/]+$", path)
    return {
        **_labels(generate_latest(LAUNCHER).decode()),
        **_labels(generate_latest(WEBHOOK).decode()),
        **{name: {grouped} for name in _labels(pushed)},
    }


def _selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """Return the metrics of an expression with their label matchers."""
    found = re.findall(r"(advgrpo_\w+)(?:\{([^}]*)\})?", expression)
    return [(name, dict(re.findall(r'(\w+)=~?"([^"]*)"', said))) for name, said in found]


@pytest.mark.parametrize("alert", RULES)
def test_a_rule_uses_served_metrics_and_their_labels(
    alert: str, served: Mapping[str, set[str]]
) -> None:
    rule = RULES[alert]
    selectors = _selectors(rule["expr"])
    assert selectors
    for name, matchers in selectors:
        assert name in served
        assert set(matchers) <= served[name]
        for state in matchers.get("state", "running").split("|"):
            assert JobState(state)
        assert matchers.get("task", "train") in {task.name for task in JOB_TASKS}
    having = set.union(*(served[name] for name, _ in selectors)) | OF_SCRAPING
    for listed in re.findall(r"\bon \(([^)]*)\)", rule["expr"]):
        assert {label.strip() for label in listed.split(",")} <= having
    said = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert said <= served[selectors[0][0]]


def test_the_dashboard_shows_served_metrics_and_their_labels(
    served: Mapping[str, set[str]],
) -> None:
    board = json.loads((CHART / "dashboard.json").read_text(encoding="utf-8"))
    # Prometheus adds these to the series of a pod.
    added = {"namespace", "pod"}
    for panel in board["panels"]:
        for target in panel["targets"]:
            selectors = _selectors(target["expr"])
            assert selectors
            for name, matchers in selectors:
                assert set(matchers) <= served[name] | added
            legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert legend <= served[selectors[0][0]] | added


def test_a_metric_that_is_not_served_is_found(served: Mapping[str, set[str]]) -> None:
    assert _selectors('a > advgrpo_training_update{run="x"} * 2') == [
        ("advgrpo_training_update", {"run": "x"})
    ]
    assert "advgrpo_training_update" not in served
    assert served["advgrpo_training_updates"] == {"run"}


def test_every_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    tried = [one for test in cases["tests"] for one in test["alert_rule_test"]]
    for fires in (True, False):
        assert {one["alertname"] for one in tried if bool(one["exp_alerts"]) is fires} == set(RULES)


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * UNITS[duration[-1]]


def test_alerts_come_before_the_launcher_gives_up() -> None:
    assert (
        _seconds(RULES["JobPodsNotRunning"]["for"])
        < ClusterSettings(image="trainer").startup_timeout_seconds
    )
    silent = float(RULES["ApiServerUnreachable"]["expr"].rpartition(" > ")[2])
    assert silent < RetryPolicy().budget_seconds


def test_the_page_for_operators_names_every_alert_and_no_other() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(RULES)


# --- With Prometheus' own programs ----------------------------------------------------------------


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (on Debian: apt-get install prometheus)")
    return found


def _promtool(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [_program("promtool"), *words]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def _output_of(ended: subprocess.CompletedProcess[bytes]) -> str:
    return (ended.stdout + ended.stderr).decode()


def test_promtool_passes_every_case_of_the_rules() -> None:
    for words in (("check", "rules", str(FILE)), ("test", "rules", str(CASES))):
        ended = _promtool(*words)
        assert ended.returncode == 0, _output_of(ended)


def test_promtool_finds_rules_that_never_or_always_fire(tmp_path: Path) -> None:
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    for alert, expression in itertools.product(RULES, ("vector(1) > 2", "vector(1)")):
        wrong = [
            rule | ({"expr": expression} if name == alert else {}) for name, rule in RULES.items()
        ]
        groups = {"groups": [{"name": "advgrpo", "rules": wrong}]}
        (tmp_path / "alerts.yaml").write_text(json.dumps(groups), encoding="utf-8")
        own = [test for test in cases["tests"] if test["alert_rule_test"][0]["alertname"] == alert]
        tried = cases | {"rule_files": ["alerts.yaml"], "tests": own}
        (tmp_path / "cases.yaml").write_text(json.dumps(tried), encoding="utf-8")
        ended = _promtool("test", "rules", str(tmp_path / "cases.yaml"))
        assert ended.returncode != 0
        assert f"alertname: {alert}" in _output_of(ended)


@pytest.mark.parametrize("registry", [LAUNCHER, WEBHOOK], ids=["launcher", "webhook"])
def test_promtool_accepts_each_page(registry: CollectorRegistry) -> None:
    _record_all()
    ended = _promtool("check", "metrics", given=generate_latest(registry))
    assert (ended.returncode, _output_of(ended)) == (0, "")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _query(url: str) -> Any:  # noqa: ANN401 - any JSON
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)["data"]


def _targets(name: str, template: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the discovered targets of a pod: one per port, or per container without ports.

    Source:
        Prometheus 2.42, `discovery/kubernetes/pod.go`. Debian's is built without it.
    """
    meta = {"namespace": "research", "pod_name": name, "pod_ip": "127.0.0.1"}
    for kind in ("label", "annotation"):
        for key, value in template["metadata"].get(f"{kind}s", {}).items():
            meta[f"pod_{kind}_{re.sub(r'[^a-zA-Z0-9_]', '_', key)}"] = value
    labels = {f"__meta_kubernetes_{key}": value for key, value in meta.items()}
    for container in template["spec"]["containers"]:
        ports = [f":{port['containerPort']}" for port in container.get("ports", [])] or [""]
        yield from ({"targets": [f"127.0.0.1{port}"], "labels": labels} for port in ports)


def _all_targets(*, task_port: int, webhook_port: int) -> list[dict[str, Any]]:
    """Return targets of pods of the chart and of Pipelines, and of an unrelated pod."""
    metrics = {**CREATED_SECRETS["metrics"], "port": webhook_port}
    made = dict(pods(objects({**CREATED_SECRETS, "metrics": metrics})))
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(task_port)}
    containers = {"containers": [{"name": "main"}, {"name": "wait"}]}
    templates = {
        "webhook": made["Deployment advgrpo-webhook"],
        "janitor": made["CronJob advgrpo-janitor"],
        "task": {"metadata": {"labels": LABELS, "annotations": scraped}, "spec": containers},
        "other": {"metadata": {"annotations": scraped}, "spec": containers},
    }
    return [target for name, pod in templates.items() for target in _targets(name, pod)]


def _settings_of_the_page(targets: Path) -> dict[str, Any]:
    """Return the Prometheus configuration of docs/operating.md, with the rules."""
    (text,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    shown = yaml.safe_load(text)
    del shown["scrape_configs"][0]["kubernetes_sd_configs"]
    shown["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(targets)]}]
    often = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    return {"global": often, "rule_files": [str(FILE)], **shown}


def test_a_real_prometheus_selects_the_pods_scrapes_their_pages_and_evaluates_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, port = _program("prometheus"), _free_port()
    launcher, webhook = _free_port(), _free_port()
    _record_all()
    with ExitStack() as stack:
        for registry, its_port in ((LAUNCHER, launcher), (WEBHOOK, webhook)):
            monkeypatch.setenv(PORT, str(its_port))
            assert stack.enter_context(serve_metrics(registry)) == its_port
        targets, file = tmp_path / "targets.json", tmp_path / "prometheus.yml"
        found = _all_targets(task_port=launcher, webhook_port=webhook)
        targets.write_text(json.dumps(found), encoding="utf-8")
        file.write_text(json.dumps(_settings_of_the_page(targets)), encoding="utf-8")
        command = [
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=localhost:{port}",
        ]
        log = stack.enter_context((tmp_path / "log").open("wb"))
        server = stack.enter_context(subprocess.Popen(command, stderr=log))
        stack.callback(server.terminate)
        url = f"http://localhost:{port}/api/v1"
        _wait_until_judged(url)
        scraped = {
            (one["metric"]["pod"], one["metric"]["namespace"])
            for one in _query(f'{url}/query?query=up{{job="advgrpo"}}')["result"]
        }
        assert scraped == {("task", "research"), ("webhook", "research")}
        for selector in _served_selectors():
            assert _query(f"{url}/query?query={quote(selector)}")["result"], selector
        alerts = _query(f"{url}/alerts")["alerts"]
        firing = [one["labels"] for one in alerts if one["state"] == "firing"]
        assert {one["alertname"] for one in firing if _is_own(one)} == {"RewardHackingAlarm"}


def _is_own(labels: Mapping[str, str]) -> bool:
    """Return whether an alert is about the series of `_record_all`, not of an earlier test."""
    return all(labels.get(key, value) == value for key, value in OWN.items())


def _served_selectors() -> set[str]:
    """Return the metrics of the rules, except for pushed ones."""
    return {
        re.sub(r"\s+", "", selector)
        for rule in RULES.values()
        for selector in re.findall(r"advgrpo_(?!janitor)\w+(?:\{[^}]*\})?", rule["expr"])
    }


def _wait_until_judged(url: str) -> None:
    """Wait until two pages were scraped and each rule was evaluated afterwards."""
    read_at = ""
    for _ in range(120):
        time.sleep(0.5)
        try:
            up = _query(f'{url}/query?query=sum(up{{job="advgrpo"}})')["result"]
            rules = _query(f"{url}/rules")["groups"][0]["rules"]
        except (urllib.error.URLError, ConnectionError, IndexError):
            continue
        if not read_at and [one for one in up if one["value"][1] == "2"]:
            read_at = max(rule["lastEvaluation"] for rule in rules)
        if read_at and all(rule["lastEvaluation"] > read_at for rule in rules):
            assert {rule["health"] for rule in rules} == {"ok"}
            return
    pytest.fail("Prometheus did not read both pages within a minute")
