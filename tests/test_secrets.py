"""What a user's secrets must not get into when something fails."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from advgrpo.cli.main import main
from advgrpo.cluster.settings import parse_cluster_settings
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ConfigError, StorageError
from advgrpo.redaction import RedactingFormatter, hide, is_secret_name, redact
from advgrpo.testing import StubKfp
from advgrpo.tracking import task_run
from advgrpo.tracking.runs import open_parent_run
from tests.planted import PLANTED, leaks

ROOT = Path(__file__).parents[1]
KEY, SECRET = "PLANTEDKEYID0000", "planted/s3+secret+key/aa"
PASSWORD = "planted-password-17"
SECRETS = [*PLANTED.values(), SECRET, PASSWORD]
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = {
        **PLANTED,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL_S3": DEAD,
        "AWS_MAX_ATTEMPTS": "1",
        "MLFLOW_TRACKING_USERNAME": "planted-user",
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


class Failing(NamedTuple):
    """A failing command, and a part of its output that identifies the failure."""

    command: str
    output: str
    environment: Mapping[str, str] = {}


HOLDING_URI = "http://me:planted-password-17@127.0.0.1:9"
FAILING = {
    "an MLflow address with a password": Failing(
        "registry list", "contains a user or a password", {"MLFLOW_TRACKING_URI": HOLDING_URI}
    ),
    "an MLflow server that does not answer": Failing(
        "registry list", "127.0.0.1:9", {"MLFLOW_TRACKING_URI": DEAD}
    ),
    "an S3 address with a password": Failing(
        "train --reference-images s3://advgrpo/none --discriminator s3://advgrpo/none",
        "AWS_ENDPOINT_URL_S3",
        {"AWS_ENDPOINT_URL_S3": HOLDING_URI},
    ),
    "a Pipelines address with a password": Failing(
        f"pipeline upload --endpoint {HOLDING_URI}", "contains a user or a password"
    ),
    "a key in the location of weights": Failing(
        f"config validate --set policy.weights.location=s3://{KEY}:{PASSWORD}@bucket/x",
        "policy.weights.location",
    ),
    "a token in the location of a hub": Failing(
        f"config validate --set policy.weights.location=hub://{PLANTED['HF_TOKEN']}@owner/name",
        "policy.weights.location",
    ),
    "a signed address": Failing(
        "config validate --set "
        f"prompts.train=https://bucket/x?X-Amz-Credential={KEY}&X-Amz-Signature={PASSWORD}",
        "prompts.train",
    ),
    "a secret as an unknown setting": Failing(
        f"config validate --set hf_token={PLANTED['HF_TOKEN']}", "hf_token"
    ),
    "a secret as the value of a setting": Failing(
        f"config validate --set training.updates={PLANTED['HF_TOKEN']}", "training.updates"
    ),
    "a secret as the name of a preset": Failing(
        f"config show --preset {PASSWORD}", "is not a preset"
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_command_prints_no_secret(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    failing = FAILING[name]
    for variable, value in failing.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["advgrpo", *failing.command.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    shown = capfd.readouterr()
    assert caught.value.code not in {0, None}
    assert failing.output in shown.err
    assert leaks(SECRETS, shown.out, shown.err, tmp_path) == []


@pytest.fixture
def _real_stores(running_stores: EmbeddedServers, monkeypatch: pytest.MonkeyPatch) -> None:
    there = running_stores.environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", there["AWS_ENDPOINT_URL_S3"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", there["MLFLOW_TRACKING_URI"])


@pytest.mark.usefixtures("_real_stores")
def test_a_wrong_s3_key_is_refused_without_printing_it() -> None:
    from advgrpo.storage import write_bytes

    with pytest.raises(StorageError) as caught:
        write_bytes("s3://advgrpo/x", b"x")
    assert leaks(SECRETS, str(caught.value), repr(caught.value)) == []


@pytest.mark.usefixtures("_real_stores")
def test_what_a_user_writes_into_settings_by_mistake_does_not_reach_mlflow(
    running_stores: EmbeddedServers, tmp_path: Path
) -> None:
    slip = PLANTED["HF_TOKEN"]
    parent = open_parent_run(
        "secrets", "run", tracking_uri=running_stores.tracking_uri,
        parameters={"note": f"use {slip}", "nested": {"list": [slip]}},
        config_text=f"note: {slip}", tags={"note": slip},
    )  # fmt: skip
    with task_run(
        "train",
        folder=tmp_path,
        parent_run_id=parent,
        tracking_uri=running_stores.tracking_uri,
    ) as run:
        run.parameters({"note": slip})
        run.tags({"note": slip})
    stores = [path for path in running_stores.folder.iterdir() if path.name != "credentials.json"]
    assert leaks([slip], tmp_path, *stores) == []


def test_a_server_that_repeats_the_token_is_not_quoted() -> None:
    from advgrpo.errors import ClusterError
    from advgrpo.kfp_client import Access, KfpServer

    token = "an-option's-token"
    with StubKfp(token="another") as stub, pytest.raises(ClusterError) as caught:
        KfpServer(Access(endpoint=stub.endpoint, token=token))
    assert leaks([token], str(caught.value)) == []
    assert redact(f"Bearer {token}") == "Bearer ***"


@pytest.mark.parametrize("raised", ["RuntimeError", "advgrpo.errors.StorageError"])
def test_the_traceback_of_a_process_contains_no_secret(raised: str) -> None:
    program = (
        "import os, advgrpo.errors\n"
        "from advgrpo.runtime.failures import run_as_process\n"
        "def main():\n"
        f"    raise {raised}('with ' + os.environ['HF_TOKEN'])\n"
        "run_as_process(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "with ***" in done.stderr
    assert done.returncode != 0
    assert leaks(SECRETS, done.stderr, done.stdout) == []


def test_the_traceback_of_a_thread_contains_no_secret() -> None:
    program = (
        "import os, threading\n"
        "from advgrpo.runtime.failures import run_as_process\n"
        "def fail():\n"
        "    raise RuntimeError('with ' + os.environ['HF_TOKEN'])\n"
        "def main():\n"
        "    thread = threading.Thread(target=fail, name='beside')\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "run_as_process(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "beside" in done.stderr
    assert "RuntimeError: with ***" in done.stderr
    assert leaks(SECRETS, done.stderr, done.stdout) == []


def test_a_log_record_holds_no_secret() -> None:
    try:
        raise ValueError(f"no access with {SECRET}")
    except ValueError:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, "f", 1, "token %s", (PLANTED["HF_TOKEN"],), sys.exc_info()
        )
    output = RedactingFormatter("%(message)s").format(record)
    assert output.startswith("token ***")
    assert "no access with ***" in output


def test_other_texts_are_not_changed() -> None:
    text = "s3://bucket/a@b/file at http://host:5000, user@example.org, TOKENIZERS_PARALLELISM"
    assert redact(text) == text
    hide("short")
    assert redact("a short text") == "a short text"


def test_a_bucket_named_like_the_access_key_id_is_shown() -> None:
    assert redact(f"s3://{KEY}/advgrpo: {SECRET}") == f"s3://{KEY}/advgrpo: ***"


def test_a_host_named_like_a_secret_of_kubernetes_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVGRPO_MLFLOW_SECRET", "advgrpo-mlflow")
    assert redact(f"http://advgrpo-mlflow:5000 {SECRET}") == "http://advgrpo-mlflow:5000 ***"


def test_a_secret_among_the_variables_of_a_clusters_pods_is_refused() -> None:
    given = json.dumps({"environment": {"HF_TOKEN": "hf_another_one"}})
    with pytest.raises(ConfigError, match="HF_TOKEN would be stored in a ConfigMap") as caught:
        parse_cluster_settings(given)
    assert "hf_another_one" not in str(caught.value)


@pytest.mark.usefixtures("warm_python")
def test_compiled_pipeline_and_images_take_secrets_by_reference_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "advgrpo.cli.main", "pipeline", "compile", "--output", "p.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert leaks(SECRETS, tmp_path, done.stdout, done.stderr) == []
    for image in (ROOT / "images").rglob("Dockerfile"):
        for line in image.read_text("utf-8").splitlines():
            named = re.match(r"(?:ARG|ENV)\s+(\w+)", line)
            assert named is None or not is_secret_name(named[1]), f"{image}: {line}"
