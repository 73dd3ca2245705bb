"""What Kubeflow's own command sends for our pipeline: the YAML must work untouched."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from click.testing import CliRunner
from kfp.cli import cli

from advgrpo.cli.main import app
from advgrpo.config import preset_names
from advgrpo.errors import ClusterError
from advgrpo.kfp_client.compiled import PIPELINE
from advgrpo.testing import StubKfp
from tests.kfp_client.conftest import TOKEN

pytestmark = pytest.mark.filterwarnings("ignore:This client only works:FutureWarning")


def _kfp(stub: StubKfp, *arguments: str) -> str:
    access = ["--endpoint", stub.endpoint, "--existing-token", TOKEN, "--output", "json"]
    result = CliRunner().invoke(cli.cli, [*access, *arguments], obj={})
    if result.exception:
        raise result.exception
    return str(result.output)


def _parameters(stub: StubKfp) -> dict[str, Any]:
    run: dict[str, Any] = stub.sent("POST", "/runs")[-1].json
    parameters: dict[str, Any] = run["runtime_config"]["parameters"]
    return parameters


@pytest.mark.parametrize("verb", ["create", "submit"])
def test_the_yaml_runs_untouched(stub: StubKfp, verb: str) -> None:
    _kfp(
        stub,
        *("run", verb, "-e", "mine", "-f", str(PIPELINE), "workspace=s3://b/w"),
        *("processes=8", 'overrides=["training.updates=10","seed=1"]'),
    )
    sent = stub.sent("POST", "/runs")[-1].json
    assert sent["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "adversarial-grpo"
    assert "kubernetes" in sent["pipeline_spec"]["platform_spec"]["platforms"]
    # As the types of the pipeline's parameters want them.
    assert _parameters(stub) == {
        "workspace": "s3://b/w",
        "processes": 8,
        "overrides": ["training.updates=10", "seed=1"],
    }


def test_a_preset_that_is_not_a_choice_is_refused_by_the_server(stub: StubKfp) -> None:
    run = ["run", "create", "-e", "mine", "-f", str(PIPELINE), "workspace=s3://b/w"]
    with pytest.raises(Exception, match="mine"):
        _kfp(stub, *run, "preset=mine")
    settings = "settings_yaml=training: {updates: 7}"
    _kfp(stub, *run, "preset=sd35m_dino", settings)
    assert _parameters(stub)["settings_yaml"] == "training: {updates: 7}"


def test_only_the_workspace_must_be_given(stub: StubKfp) -> None:
    with pytest.raises(Exception, match="workspace"):
        _kfp(stub, "run", "create", "-e", "mine", "-f", str(PIPELINE))
    _kfp(stub, "run", "create", "-e", "mine", "-f", str(PIPELINE), "workspace=s3://b/w")


def test_an_uploaded_version_runs_by_its_ids(stub: StubKfp) -> None:
    _kfp(stub, "pipeline", "create", "-p", "adversarial-grpo", str(PIPELINE))
    (version,) = stub.versions.values()
    _kfp(
        stub,
        *("run", "create", "-e", "mine", "-p", version["pipeline_id"]),
        *("-v", version["pipeline_version_id"], "workspace=s3://b/w"),
    )
    assert _parameters(stub) == {"workspace": "s3://b/w"}


def test_the_documented_command_runs_the_pipeline_as_the_chart_uploaded_it(
    stub: StubKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = ["--endpoint", stub.endpoint, "--token", TOKEN]
    file = tmp_path / "downloaded.yaml"
    download = ["pipeline", "download", "--output", str(file), *access]
    refused = CliRunner().invoke(typer.main.get_command(app), download)
    assert isinstance(refused.exception, ClusterError)
    assert "helm upgrade" in refused.exception.repair
    for name, value in {
        "ADVGRPO_LAUNCHER_IMAGE": "r.example/launcher:1",
        "ADVGRPO_TRAINER_IMAGE": "r.example/trainer:1",
        "ADVGRPO_PULL_SECRETS": "one two",
        "ADVGRPO_RUN_AS_USER": "2000",
    }.items():
        monkeypatch.setenv(name, value)
    command = typer.main.get_command(app)
    assert not CliRunner().invoke(command, ["pipeline", "upload", *access]).exception
    # On another machine, without the chart's variables.
    for name in ("LAUNCHER_IMAGE", "TRAINER_IMAGE", "PULL_SECRETS", "RUN_AS_USER"):
        monkeypatch.delenv(f"ADVGRPO_{name}")
    printed = CliRunner().invoke(command, download)
    (version,) = stub.versions.values()
    assert f"-v {version['pipeline_version_id']}" in printed.output
    _kfp(stub, "run", "create", "-e", "mine", "--package-file", str(file), "workspace=s3://b/w")
    sent = stub.sent("POST", "/runs")[-1].json["pipeline_spec"]
    executors = sent["pipeline_spec"]["deploymentSpec"]["executors"].values()
    images = {executor["container"]["image"] for executor in executors}
    assert images == {"r.example/launcher:1", "r.example/trainer:1"}
    platform = sent["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in platform.values():
        assert [one["secretName"] for one in executor["imagePullSecret"]] == ["one", "two"]
        assert executor["securityContext"]["runAsUser"] == "2000"


def test_a_recurring_run_of_the_command_is_off_unless_enabled_and_sends_texts(
    stub: StubKfp,
) -> None:
    # Why `advgrpo submit --every` is what the documents name.
    _kfp(
        stub,
        *("recurring-run", "create", "--job-name", "weekly", "--experiment-name", "mine"),
        *("--interval-second", "604800", "--pipeline-package-path", str(PIPELINE)),
        *("workspace=s3://b/w", "processes=8"),
    )
    sent = stub.sent("POST", "/recurringruns")[-1].json
    assert sent["mode"] == "DISABLE"
    assert sent["runtime_config"]["parameters"]["processes"] == "8"


def test_every_parameter_in_the_user_interface_is_described() -> None:
    pipeline = next(yaml.safe_load_all(PIPELINE.read_text()))
    inputs = pipeline["root"]["inputDefinitions"]
    types = {name: entry["parameterType"] for name, entry in inputs["parameters"].items()}
    assert types == {
        "workspace": "STRING",
        "preset": "STRING",
        "overrides": "LIST",
        "processes": "NUMBER_INTEGER",
        "mlflow_run_key": "STRING",
        "settings_yaml": "STRING",
    }
    assert all(len(entry["description"]) > 20 for entry in inputs["parameters"].values())
    # The form shows neither descriptions nor anything but an alphabetical order.
    explained = re.findall(r"^- (\w+): .{20}", pipeline["pipelineInfo"]["description"], re.M)
    assert explained == sorted(types)
    assert inputs["parameters"]["preset"]["literals"] == [*preset_names(), "custom"]
    without_default = [n for n, e in inputs["parameters"].items() if "defaultValue" not in e]
    assert without_default == ["workspace"]
