import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.config import resolve
from advgrpo.errors import AdvGrpoError, ClusterError, ConfigError, PipelineError
from advgrpo.kfp_client.compiled import CHECKOUT
from advgrpo.testing import StubKfp
from tests.helm.releases import MINIMAL, notes
from tests.kfp_client.conftest import TOKEN

run = CliRunner().invoke


@pytest.fixture
def access(stub: StubKfp) -> list[str]:
    return ["--endpoint", stub.endpoint, "--token", TOKEN]


def _output(*arguments: str) -> str:
    result = run(app, arguments)
    if result.exception is not None and isinstance(result.exception, AdvGrpoError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return str(result.output)


def test_a_run_is_submitted_and_its_page_printed(stub: StubKfp, access: list[str]) -> None:
    output = _output(
        "submit", "--workspace", "s3://b/w", "--set", "seed=1", "--processes", "2", *access
    )
    made = next(iter(stub.runs.values()))
    assert f"{stub.endpoint}/#/runs/details/{made['run_id']}" in output
    assert made["display_name"].startswith("pocket ")
    assert made["runtime_config"]["parameters"] == {
        "workspace": "s3://b/w",
        "preset": "pocket",
        "settings_yaml": "",
        "overrides": ["seed=1"],
        "processes": 2,
        "mlflow_run_key": "",
    }


def test_a_namespace_that_has_no_effect_is_noted(stub: StubKfp, access: list[str]) -> None:
    submit = ["submit", "--workspace", "s3://b/w", *access]
    assert "--namespace=research has no effect" in _output(*submit, "--namespace", "research")
    assert "note:" not in _output(*submit)
    assert len(stub.runs) == 2


def test_submitting_again_uploads_nothing(stub: StubKfp, access: list[str]) -> None:
    assert "uploaded" in _output("submit", "--workspace", "s3://b/w", *access)
    assert "uploaded" not in _output("submit", "--workspace", "s3://b/w", *access)
    assert (len(stub.versions), len(stub.runs)) == (1, 2)


def test_an_invalid_run_is_refused_before_any_request(stub: StubKfp, access: list[str]) -> None:
    with pytest.raises(ConfigError, match="3 training processes"):
        _output("submit", "--workspace", "s3://b/w", "--processes", "3", *access)
    assert stub.requests == []


def test_a_local_preset_needs_no_file_on_the_cluster(
    stub: StubKfp, access: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(resolve("pocket", ["seed=9"]).to_yaml())
    _output("submit", "--workspace", "s3://b/w", "--preset", str(file), *access)
    made = next(iter(stub.runs.values()))
    assert made["display_name"].startswith("mine ")
    parameters = made["runtime_config"]["parameters"]
    assert parameters["preset"] == "custom"
    assert resolve(parameters["settings_yaml"]).seed == 9


def test_a_watched_run_that_succeeds_is_a_success(stub: StubKfp, access: list[str]) -> None:
    stub.progress = [{"state": "SUCCEEDED"}]
    assert "the run succeeded" in _output("submit", "--workspace", "s3://b/w", "--watch", *access)


def test_a_watched_run_that_fails_is_a_failure(stub: StubKfp, access: list[str]) -> None:
    details = [{"display_name": "train", "state": "FAILED", "error": {"message": "exit code 13"}}]
    stub.progress = [{"state": "FAILED", "run_details": {"task_details": details}}]
    with pytest.raises(PipelineError, match="task Adversarial training: exit code 13"):
        _output("submit", "--workspace", "s3://b/w", "--watch", *access)


def test_a_run_can_be_watched_later(stub: StubKfp, access: list[str]) -> None:
    _output("submit", "--workspace", "s3://b/w", *access)
    stub.progress = [{"state": "CANCELED"}]
    with pytest.raises(PipelineError, match="was cancelled"):
        _output("pipeline", "watch", next(iter(stub.runs)), *access)


def test_ctrl_c_does_not_stop_the_run(stub: StubKfp, access: list[str]) -> None:
    stub.progress = [{"state": "RUNNING"}]
    command = [sys.executable, "-m", "advgrpo.cli.main", "submit", "--watch"]
    with subprocess.Popen(
        [*command, "--workspace", "s3://b/w", *access],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert any("the run is running" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "the run continues" in rest
    assert not [request for request in stub.requests if "terminate" in request.path]


def test_a_recurring_run_is_submitted(stub: StubKfp, access: list[str]) -> None:
    output = _output("submit", "--workspace", "s3://b/w", "--every", "7d", *access)
    made = next(iter(stub.recurring_runs.values()))
    assert made["display_name"] == "pocket every 7d"
    assert made["runtime_config"]["parameters"]["processes"] == 1
    assert made["recurring_run_id"] in output
    assert stub.runs == {}


def test_a_recurring_run_cannot_be_watched(access: list[str]) -> None:
    with pytest.raises(ConfigError, match="--watch"):
        _output("submit", "--workspace", "s3://b/w", "--every", "7d", "--watch", *access)


def test_a_wrong_token_is_an_expected_error(stub: StubKfp) -> None:
    with pytest.raises(ClusterError, match="answers 401"):
        _output("submit", "--workspace", "s3://b/w", "--endpoint", stub.endpoint, "--token", "old")


def test_a_token_may_come_from_the_environment(
    stub: StubKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVGRPO_KFP_TOKEN", TOKEN)
    _output("submit", "--workspace", "s3://b/w", "--endpoint", stub.endpoint)
    assert len(stub.runs) == 1


def test_upload_is_idempotent_and_takes_the_images_of_a_registry(
    stub: StubKfp, access: list[str]
) -> None:
    images = ["--launcher-image", "r.example/launcher:1", "--trainer-image", "r.example/trainer:1"]
    assert "uploaded" in _output("pipeline", "upload", *images, *access)
    assert "exists already" in _output("pipeline", "upload", *images, *access)
    version = next(iter(stub.versions.values()))
    executors = version["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    used = {executor["container"]["image"] for executor in executors.values()}
    assert used == {"r.example/launcher:1", "r.example/trainer:1"}


def test_the_charts_workspace_is_the_default_of_the_pipeline_that_it_uploads(
    stub: StubKfp, access: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVGRPO_WORKSPACE", "s3://research/advgrpo")
    _output("pipeline", "upload", *access)
    (version,) = stub.versions.values()
    inputs = version["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert inputs["workspace"]["defaultValue"] == "s3://research/advgrpo"
    # Also for `advgrpo submit`, which finds this version from a machine without the variable, too.
    _output("submit", *access)
    monkeypatch.delenv("ADVGRPO_WORKSPACE")
    _output("submit", "--workspace", "s3://research/other", *access)
    assert len(stub.versions) == 1
    sent = [run["runtime_config"]["parameters"]["workspace"] for run in stub.runs.values()]
    assert sent == ["s3://research/advgrpo", "s3://research/other"]


def test_upload_takes_the_user_of_the_chart(
    stub: StubKfp, access: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVGRPO_RUN_AS_USER", "1000660000")
    _output("pipeline", "upload", *access)
    spec = next(iter(stub.versions.values()))["pipeline_spec"]["platform_spec"]
    executors = spec["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {one["securityContext"]["runAsUser"] for one in executors.values()} == {"1000660000"}
    monkeypatch.setenv("ADVGRPO_RUN_AS_USER", "1.00066e+09")
    with pytest.raises(ConfigError, match="ADVGRPO_RUN_AS_USER"):
        _output("pipeline", "upload", *access)


def test_submit_takes_the_version_with_the_registrys_images(
    stub: StubKfp, access: list[str]
) -> None:
    _output("pipeline", "upload", "--launcher-image", "r.example/launcher:1", *access)
    _output("submit", "--workspace", "s3://b/w", *access)
    made = next(iter(stub.runs.values()))
    assert list(stub.versions) == [made["pipeline_version_reference"]["pipeline_version_id"]]


def test_every_submit_command_of_the_docs_is_accepted(stub: StubKfp, access: list[str]) -> None:
    pages = [CHECKOUT / "README.md", CHECKOUT / "docs" / "operating.md"]
    page = "".join(path.read_text("utf-8") for path in pages).replace("\\\n", "")
    shown = [
        shlex.split(line, comments=True)
        for line in map(str.strip, page.splitlines())
        if line.startswith("advgrpo submit")
    ]
    assert len(shown) >= 2
    for _, *arguments in shown:
        _output(*(word for word in arguments if word != "--watch"), *access)
    assert len(stub.runs) + len(stub.recurring_runs) == len(shown)
    by_kfp = [line for line in page.splitlines() if "kfp --endpoint" in line]
    (processes,) = re.findall(r" processes=(\d+)", *by_kfp)
    resolve("pocket", []).check_ranks(int(processes))


def test_the_submit_command_of_the_charts_notes_is_accepted(access: list[str]) -> None:
    (line,) = [line for line in notes(MINIMAL).splitlines() if "advgrpo submit" in line]
    _, *arguments = shlex.split(line)
    assert "run: " in _output(*(word for word in arguments if word != "--watch"), *access)
