"""Artifact stores that MLflow's server does not proxy, and records that fail alone."""

import uuid
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.store.artifact.s3_artifact_repo import _cached_get_s3_client

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ConfigError, TrackingError
from advgrpo.tracking import TaskRun, task_run
from advgrpo.tracking.health import check_server
from advgrpo.tracking.run_lookup import find_run
from advgrpo.tracking.runs import open_parent_run
from advgrpo.tracking.uploader import send_outbox
from tests.proxy import Proxy

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def client(stores: EmbeddedServers) -> MlflowClient:
    return MlflowClient(stores.tracking_uri)


def experiment(client: MlflowClient, location: str | None = None) -> str:
    """The name of a new experiment with its artifacts at a location, as of other servers."""
    name = uuid.uuid4().hex
    client.create_experiment(name, artifact_location=location)
    return name


def open_run(name: str, tracking_uri: str, key: str | None = None, **parameters: object) -> str:
    return open_parent_run(
        name,
        "run",
        tracking_uri=tracking_uri,
        parameters=parameters,
        config_text="seed: 0",
        tags={},
        key=key,
    )


def forget_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    # MLflow reuses clients for some minutes, and boto3 the credentials of its session.
    _cached_get_s3_client.cache_clear()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


def record(run: TaskRun, tmp_path: Path) -> str:
    """Record a metric, a file and another metric; return the id of the run."""
    (tmp_path / "report.txt").write_text("report")
    run.metrics({"reward": 1.0}, 0)
    run.artifact(tmp_path / "report.txt")
    run.metrics({"reward": 2.0}, 1)
    return run.run_id()


def steps(client: MlflowClient, run_id: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, "reward")]


def test_a_store_on_the_servers_disk_is_refused_by_the_first_task_and_doctor(
    stores: EmbeddedServers, client: MlflowClient, tmp_path: Path
) -> None:
    for location in (f"file://{tmp_path}/another-machine", str(tmp_path / "another-machine")):
        name = experiment(client, location)
        for attempt in (
            lambda name=name: open_run(name, stores.tracking_uri),
            lambda name=name: check_server(stores.tracking_uri, name),
        ):
            with pytest.raises(TrackingError, match="does not proxy artifacts") as caught:
                attempt()
            assert "--serve-artifacts" in caught.value.repair
        number = client.get_experiment_by_name(name).experiment_id
        assert [run.info.status for run in client.search_runs([number])] == ["FAILED"]
    assert not (tmp_path / "another-machine").exists()


def test_a_store_without_keys_is_refused_by_the_first_task_and_doctor(
    stores: EmbeddedServers, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = experiment(client, "s3://advgrpo/not-proxied")
    assert check_server(stores.tracking_uri, name)
    forget_keys(monkeypatch)
    for attempt in (
        lambda: open_run(name, stores.tracking_uri),
        lambda: check_server(stores.tracking_uri, name),
    ):
        with pytest.raises(TrackingError, match="credentials") as caught:
            attempt()
        assert "AWS_ACCESS_KEY_ID" in caught.value.repair
        assert "--serve-artifacts" in caught.value.repair


def test_metrics_do_not_wait_for_a_store_without_keys_and_its_files_are_sent_later(
    stores: EmbeddedServers,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    name = experiment(client, "s3://advgrpo/not-proxied")
    with monkeypatch.context() as without:
        forget_keys(without)
        with task_run(
            "train", folder=tmp_path / "out", tracking_uri=stores.tracking_uri, experiment=name
        ) as run:
            run_id = record(run, tmp_path)
        with pytest.raises(TrackingError, match="does not accept 1 files"):
            send_outbox(tmp_path / "out", stores.tracking_uri)
    assert steps(client, run_id) == [0, 1]
    assert client.get_run(run_id).info.status == "FINISHED"
    _cached_get_s3_client.cache_clear()
    send_outbox(tmp_path / "out", stores.tracking_uri)
    assert [file.path for file in client.list_artifacts(run_id)] == ["report.txt"]
    assert not list((run.folder / "files").iterdir())


def test_files_never_land_on_the_disk_of_the_task(
    stores: EmbeddedServers, client: MlflowClient, tmp_path: Path
) -> None:
    name = experiment(client, f"file://{tmp_path}/another-machine")
    with task_run(
        "train", folder=tmp_path / "out", tracking_uri=stores.tracking_uri, experiment=name
    ) as run:
        run_id = record(run, tmp_path)
    assert steps(client, run_id) == [0, 1]
    assert not (tmp_path / "another-machine").exists()


@pytest.mark.parametrize("status", [403, 404, 413, 500, 503])
def test_a_file_that_a_proxy_refuses_does_not_hold_up_the_records_after_it(
    stores: EmbeddedServers,
    client: MlflowClient,
    proxy: Callable[[str], Proxy],
    tmp_path: Path,
    status: int,
) -> None:
    server = proxy(stores.tracking_uri)
    server.mode, server.only, server.status = "refuse_all", "PUT /api/2.0/mlflow-artifacts", status
    with task_run("train", folder=tmp_path / "out", tracking_uri=server.url) as run:
        run_id = record(run, tmp_path)
    assert steps(client, run_id) == [0, 1]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert "report.txt" not in [file.path for file in client.list_artifacts(run_id)]
    server.mode = "pass"
    send_outbox(tmp_path / "out", server.url)
    assert [file.path for file in client.list_artifacts(run_id)] == ["report.txt"]


@pytest.mark.parametrize("status", [403, 413, 500])
def test_a_record_that_fails_for_its_own_sake_steps_aside(
    stores: EmbeddedServers,
    client: MlflowClient,
    proxy: Callable[[str], Proxy],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    server = proxy(stores.tracking_uri)
    server.mode, server.only, server.status = "refuse_all", "poisoned", status
    with task_run("train", folder=tmp_path, tracking_uri=server.url) as run:
        run.metrics({"reward": 1.0}, 0)
        run.tags({"note": "poisoned"})
        run.metrics({"poisoned": 1.0}, 1)
        run.metrics({"reward": 2.0}, 1)
        run_id = run.run_id()
    assert steps(client, run_id) == [0, 1]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert len((run.folder / "refused.jsonl").read_text().splitlines()) == 2
    assert "refuses a record" in caplog.text


def test_the_thread_survives_any_error(
    stores: EmbeddedServers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("an unforeseen error")

    with monkeypatch.context() as failing:
        failing.setattr("advgrpo.tracking.uploader.Uploader.send", fail)
        with task_run("train", folder=tmp_path, tracking_uri=stores.tracking_uri) as run:
            with pytest.raises(TrackingError):
                run.run_id(timeout_seconds=0.5)
            failing.undo()
            assert run.run_id()


def test_refusals_that_are_not_about_the_address_have_their_own_repair(
    stores: EmbeddedServers, client: MlflowClient
) -> None:
    deleted = experiment(client)
    client.delete_experiment(client.get_experiment_by_name(deleted).experiment_id)
    with pytest.raises(TrackingError, match="active") as caught:
        open_run(deleted, stores.tracking_uri)
    assert "restore the deleted" in caught.value.repair
    name = experiment(client)
    open_run(name, stores.tracking_uri, key="folder", rank=1)
    with pytest.raises(TrackingError, match="Changing param values") as caught:
        open_run(name, stores.tracking_uri, key="folder", rank=2)
    assert "another run key" in caught.value.repair


def test_a_key_and_a_name_may_have_an_apostrophe(
    stores: EmbeddedServers, client: MlflowClient
) -> None:
    name = experiment(client)
    first = open_run(name, stores.tracking_uri, key="team's run")
    assert open_run(name, stores.tracking_uri, key="team's run") == first
    with pytest.raises(ConfigError, match="cannot be looked up"):
        open_run(name, stores.tracking_uri, key="both ' and \"")
    with pytest.raises(ConfigError, match="has no run"):
        find_run("team's run", stores.tracking_uri)
