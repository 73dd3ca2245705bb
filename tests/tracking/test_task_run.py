import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import Preempted, TrackingError
from advgrpo.tracking import metric_curves, task_run
from advgrpo.tracking.outbox import Outbox
from advgrpo.tracking.runs import end_parent_run, open_parent_run
from advgrpo.tracking.uploader import send_outbox
from tests.proxy import Proxy


@pytest.fixture
def parent(stores: EmbeddedServers, request: pytest.FixtureRequest) -> str:
    return open_parent_run(
        request.node.name,
        "run",
        tracking_uri=stores.tracking_uri,
        parameters={"training": {"updates": 3}},
        config_text="seed: 0\n",
        tags={"kind": "test"},
    )


@pytest.fixture
def client(stores: EmbeddedServers) -> MlflowClient:
    return MlflowClient(stores.tracking_uri)


def tasks(client: MlflowClient, parent: str) -> list[Run]:
    experiment = client.get_run(parent).info.experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")


def history(client: MlflowClient, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


def png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()


def listed(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    return [file.path for file in client.list_artifacts(run_id, folder)]


def test_a_parent_run_has_parameters_and_the_config(client: MlflowClient, parent: str) -> None:
    run = client.get_run(parent)
    assert run.data.params == {"training.updates": "3"}
    assert run.data.tags["kind"] == "test"
    assert listed(client, parent) == ["config.yaml"]


def test_with_the_plugin_of_kubeflow_tasks_record_in_its_runs(
    stores: EmbeddedServers, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = client.create_experiment("plugin")
    pipeline = client.create_run(experiment).info.run_id
    nested = [
        client.create_run(experiment, tags={"mlflow.parentRunId": pipeline}).info.run_id
        for _ in range(2)
    ]
    monkeypatch.setenv("KFP_MLFLOW_CONFIG", "{}")
    monkeypatch.setenv("MLFLOW_RUN_ID", nested[0])
    places = {"tracking_uri": stores.tracking_uri}
    parent = open_parent_run(
        "other", "run", parameters={"seed": 1}, config_text="", tags={}, **places
    )
    assert parent == pipeline
    assert client.get_run(pipeline).data.params == {"seed": "1"}
    monkeypatch.setenv("MLFLOW_RUN_ID", nested[1])
    for task in ("train", "evaluate"):
        with task_run(task, folder=tmp_path, parent_run_id=parent, **places) as run:
            run.metrics({"loss": 1.0}, step=1)
            # The second task would mix its records with those of the first.
            assert (run.run_id() == nested[1]) == (task == "train")
    assert history(client, nested[1], "loss") == [(1, 1.0)]
    end_parent_run(parent, succeeded=True, **places)
    assert client.get_run(pipeline).info.status == "RUNNING"


def test_a_parent_run_is_resumed_by_its_key(stores: EmbeddedServers, client: MlflowClient) -> None:
    def open_run(key: str | None) -> str:
        return open_parent_run(
            "keys",
            "run",
            tracking_uri=stores.tracking_uri,
            parameters={},
            config_text="",
            tags={},
            key=key,
        )

    first = open_run("folder")
    end_parent_run(first, tracking_uri=stores.tracking_uri, succeeded=False)
    assert client.get_run(first).info.status == "FAILED"
    assert open_run("folder") == first
    assert client.get_run(first).info.status == "RUNNING"
    assert open_run("other") != first
    assert open_run(None) != open_run(None)


def test_the_run_of_a_kubeflow_pipeline_is_used_and_not_ended(
    stores: EmbeddedServers, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs)
    ours = open_parent_run(
        "other", "run", tracking_uri=stores.tracking_uri, parameters={}, config_text="", tags={}
    )
    end_parent_run(ours, tracking_uri=stores.tracking_uri, succeeded=True)
    assert ours == theirs
    assert client.get_run(theirs).info.status == "RUNNING"


def test_a_task_records_everything_in_one_nested_run(
    stores: EmbeddedServers, client: MlflowClient, parent: str, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "index.html").write_text("<p>")
    with task_run(
        "train", folder=tmp_path, parent_run_id=parent, tracking_uri=stores.tracking_uri
    ) as run:
        run.parameters({"a": 1, "deep": {"b": [1, 2]}})
        run.tags({"note": "yes"})
        for step in range(3):
            run.metrics({"reward": step / 2, "loss": float("nan")}, step)
        run.picture("grid/held out", 2, png())
        run.artifact(report, "html")
        run.artifact(report / "index.html")
        run_id = run.run_id()
    (task,) = tasks(client, parent)
    assert task.info.run_id == run_id
    assert (task.info.status, task.info.run_name) == ("FINISHED", "train")
    assert task.data.params == {"a": "1", "deep.b": "[1, 2]"}
    assert task.data.tags["note"] == "yes"
    assert history(client, run_id, "reward") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert listed(client, run_id, "html/report") == ["html/report/index.html"]
    assert "index.html" in listed(client, run_id)
    pictures = sorted(listed(client, run_id, "images"))
    assert len(pictures) == 2
    assert pictures[0].startswith("images/grid~held out+step+2+timestamp+")
    assert pictures[0].endswith("+compressed.webp")
    assert list((run.folder / "files").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (Preempted, "KILLED"), (None, "FINISHED")]
)
def test_the_run_has_the_status_of_its_task(
    stores: EmbeddedServers,
    client: MlflowClient,
    parent: str,
    tmp_path: Path,
    error: Callable[[str], Exception] | None,
    status: str,
) -> None:
    def work() -> None:
        with task_run(
            "train", folder=tmp_path, parent_run_id=parent, tracking_uri=stores.tracking_uri
        ):
            if error is not None:
                raise error("stop")

    if error is None:
        work()
    else:
        with pytest.raises(error, match="stop"):
            work()
    assert [task.info.status for task in tasks(client, parent)] == [status]


@pytest.mark.parametrize("same_disk", [True, False])
def test_a_resumed_task_continues_its_run_without_duplicates(
    stores: EmbeddedServers, client: MlflowClient, parent: str, tmp_path: Path, same_disk: bool
) -> None:
    for attempt, steps in enumerate([range(3), range(1, 5)]):
        folder = tmp_path / ("disk" if same_disk else f"disk{attempt}")
        with task_run(
            "train", folder=folder, parent_run_id=parent, tracking_uri=stores.tracking_uri
        ) as run:
            for step in steps:
                run.metrics({"reward": 1.0}, step)
    (task,) = tasks(client, parent)
    assert task.info.status == "FINISHED"
    curve = [(step, 1.0) for step in range(5)]
    assert history(client, task.info.run_id, "reward") == curve
    if same_disk:
        assert metric_curves(run.folder) == {"reward": curve}


def test_a_metric_of_a_step_is_recorded_once(tmp_path: Path) -> None:
    with task_run("evaluate", folder=tmp_path) as run:
        run.metrics({"cost/seconds": 1.0, "distance": 2.0}, 0)
        run.metrics({"cost/seconds": 1.5}, 0)
    assert metric_curves(run.folder) == {"cost/seconds": [(0, 1.0)], "distance": [(0, 2.0)]}
    records = [record for record in Outbox(run.folder).records() if record["kind"] == "metrics"]
    assert len(records) == 1


def test_a_picture_sent_by_a_lost_machine_is_not_duplicated(
    stores: EmbeddedServers, client: MlflowClient, parent: str, tmp_path: Path
) -> None:
    for machine in ("lost", "next"):
        with task_run(
            "train",
            folder=tmp_path / machine,
            parent_run_id=parent,
            tracking_uri=stores.tracking_uri,
        ) as run:
            run.picture("held_out", 2, png())
            run.picture("held_out", 12, png())
    (task,) = tasks(client, parent)
    assert len(listed(client, task.info.run_id, "images")) == 4


def test_unsent_pictures_can_be_recorded_on_another_machine(
    stores: EmbeddedServers,
    client: MlflowClient,
    parent: str,
    proxy: Callable[[str], Proxy],
    tmp_path: Path,
) -> None:
    server = proxy(stores.tracking_uri)
    server.mode = "refuse_all"
    with (
        pytest.raises(KeyboardInterrupt),
        task_run(
            "train",
            folder=tmp_path / "lost",
            parent_run_id=parent,
            tracking_uri=server.url,
            close_timeout_seconds=0.1,
        ) as run,
    ):
        run.picture("held_out", 2, png())
        unsent = run.unsent_pictures()
        raise KeyboardInterrupt
    assert unsent == [("held_out", 2, png())]
    with task_run(
        "train", folder=tmp_path / "next", parent_run_id=parent, tracking_uri=stores.tracking_uri
    ) as run:
        for name, step, content in unsent:
            run.picture(name, step, content)
    assert run.unsent_pictures() == []
    (task,) = tasks(client, parent)
    assert len(listed(client, task.info.run_id, "images")) == 2


def test_without_a_server_metrics_are_recorded_locally(tmp_path: Path) -> None:
    with task_run("train", folder=tmp_path) as run:
        run.metrics({"reward": 1.0, "loss": 2.0}, 0)
        run.metrics({"reward": 3.0}, 1)
        run.picture("grid", 0, png())
        run.artifact(Path(__file__))
        with pytest.raises(TrackingError, match="no MLflow run"):
            run.run_id()
    assert metric_curves(run.folder) == {"reward": [(0, 1.0), (1, 3.0)], "loss": [(0, 2.0)]}
    assert list((run.folder / "files").iterdir()) == []


def test_a_task_without_a_parent_has_its_own_run(stores: EmbeddedServers, tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        with task_run(
            "evaluate", folder=tmp_path, tracking_uri=stores.tracking_uri, experiment="alone"
        ) as run:
            ids.append(run.run_id())
            run.metrics({"reward": 1.0}, 0)
    client = MlflowClient(stores.tracking_uri)
    assert ids[0] != ids[1]
    assert [len(client.get_metric_history(run_id, "reward")) for run_id in ids] == [1, 1]


def test_an_outage_does_not_slow_the_task_and_loses_nothing(
    stores: EmbeddedServers,
    client: MlflowClient,
    parent: str,
    proxy: Callable[[str], Proxy],
    tmp_path: Path,
) -> None:
    server = proxy(stores.tracking_uri)
    with task_run("train", folder=tmp_path, parent_run_id=parent, tracking_uri=server.url) as run:
        run.metrics({"reward": 0.0}, 0)
        run_id = run.run_id()
        server.mode, server.delay_seconds = "slow", 20.0
        start = time.monotonic()
        for step in range(1, 200):
            run.metrics({"reward": 0.0}, step)
        run.picture("grid", 1, png())
        assert time.monotonic() - start < 2.0
        server.mode = "pass"
    assert [step for step, _ in history(client, run_id, "reward")] == list(range(200))


def test_lost_answers_cause_no_duplicates(
    stores: EmbeddedServers,
    client: MlflowClient,
    parent: str,
    proxy: Callable[[str], Proxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = proxy(stores.tracking_uri)
    with task_run("train", folder=tmp_path, parent_run_id=parent, tracking_uri=server.url) as run:
        run_id = run.run_id()
        server.mode = "lose_answers"
        run.metrics({"reward": 1.0, "loss": float("nan")}, 0)
        run.picture("grid", 0, png())
        seen = server.requests
        while server.requests < seen + 2:
            time.sleep(0.05)
        server.mode = "pass"
    assert history(client, run_id, "reward") == [(0, 1.0)]
    assert len(history(client, run_id, "loss")) == 1
    assert len(listed(client, run_id, "images")) == 2
    assert len(tasks(client, parent)) == 1


def test_unsent_records_are_sent_later_and_once(
    stores: EmbeddedServers,
    client: MlflowClient,
    parent: str,
    proxy: Callable[[str], Proxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = proxy(stores.tracking_uri)
    server.mode = "refuse_all"
    with task_run(
        "train",
        folder=tmp_path,
        parent_run_id=parent,
        tracking_uri=server.url,
        close_timeout_seconds=0.5,
    ) as run:
        run.metrics({"reward": 1.0}, 0)
        run.artifact(Path(__file__))
    assert tasks(client, parent) == []
    with pytest.raises(TrackingError, match="cannot send"):
        send_outbox(tmp_path, server.url)
    server.mode = "pass"
    for _ in range(2):
        send_outbox(tmp_path, server.url)
    (task,) = tasks(client, parent)
    assert task.info.status == "FINISHED"
    assert history(client, task.info.run_id, "reward") == [(0, 1.0)]
    assert listed(client, task.info.run_id) == [Path(__file__).name]


def test_the_next_task_sends_the_unsent_records_of_the_previous_one(
    stores: EmbeddedServers,
    client: MlflowClient,
    parent: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with task_run(
        "train",
        folder=tmp_path,
        parent_run_id=parent,
        tracking_uri="http://127.0.0.1:9",
        close_timeout_seconds=0.0,
    ) as run:
        run.metrics({"reward": 1.0}, 0)
    with task_run(
        "evaluate", folder=tmp_path, parent_run_id=parent, tracking_uri=stores.tracking_uri
    ):
        pass
    by_name = {task.info.run_name: task for task in tasks(client, parent)}
    assert by_name.keys() == {"train", "evaluate"}
    assert history(client, by_name["train"].info.run_id, "reward") == [(0, 1.0)]


def test_a_record_that_mlflow_refuses_is_set_aside_and_does_not_block(
    stores: EmbeddedServers, client: MlflowClient, parent: str, tmp_path: Path
) -> None:
    with task_run(
        "train", folder=tmp_path, parent_run_id=parent, tracking_uri=stores.tracking_uri
    ) as run:
        run.parameters({"rank": 1})
        run.parameters({"rank": 2})
        run.metrics({"no*such*name": 1.0}, 0)
        run.metrics({"reward": 1.0}, 0)
        run_id = run.run_id()
    assert client.get_run(run_id).data.params == {"rank": "1"}
    assert history(client, run_id, "reward") == [(0, 1.0)]
    refused = (run.folder / "refused.jsonl").read_text().splitlines()
    assert len(refused) == 2
    assert "no*such*name" in refused[1]


def test_many_metrics_need_few_requests(
    stores: EmbeddedServers,
    client: MlflowClient,
    parent: str,
    proxy: Callable[[str], Proxy],
    tmp_path: Path,
) -> None:
    server = proxy(stores.tracking_uri)
    with task_run("train", folder=tmp_path, parent_run_id=parent, tracking_uri=server.url) as run:
        run_id = run.run_id()
        before, start = server.requests, time.monotonic()
        for step in range(50):
            run.metrics({f"m{i}": float(i) for i in range(50)}, step)
    # It sends new records every two seconds, so a slow machine needs more requests.
    assert server.requests - before < 20 + 2 * (time.monotonic() - start)
    assert len(history(client, run_id, "m49")) == 50


def test_a_truncated_line_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    with task_run("train", folder=tmp_path, parent_run_id="run") as run:
        run.metrics({"reward": 1.0}, 0)
    with (run.folder / "records.jsonl").open("ab") as file:
        file.write(b'{"kind": "metrics", "st')
    with task_run("train", folder=tmp_path, parent_run_id="run") as run:
        run.metrics({"reward": 2.0}, 1)
    assert metric_curves(run.folder) == {"reward": [(0, 1.0), (1, 2.0)]}


def test_a_full_disk_is_an_error_and_leaves_whole_records(tmp_path: Path) -> None:
    # RLIMIT_FSIZE simulates a full disk.
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from advgrpo.tracking import task_run\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with task_run('train', folder=Path(sys.argv[1]), parent_run_id='run') as run:\n"
        "    for step in range(1000):\n"
        "        run.metrics({'reward': 1.0}, step)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "StorageFullError" in done.stderr, done.stderr
    with task_run("train", folder=tmp_path, parent_run_id="run") as run:
        run.metrics({"reward": 2.0}, 1000)
    curve = metric_curves(run.folder)["reward"]
    assert len(curve) > 10
    assert curve == [*((step, 1.0) for step in range(len(curve) - 1)), (1000, 2.0)]


def test_a_damaged_outbox_is_named(tmp_path: Path) -> None:
    with task_run("train", folder=tmp_path) as run:
        pass
    (run.folder / "records.jsonl").write_text("nonsense\n")
    with pytest.raises(TrackingError, match=r"records\.jsonl is damaged"):
        list(Outbox(run.folder).records())


def test_concurrent_uploads_of_an_outbox_send_it_once(
    stores: EmbeddedServers, client: MlflowClient, parent: str, tmp_path: Path
) -> None:
    with task_run(
        "train",
        folder=tmp_path,
        parent_run_id=parent,
        tracking_uri="http://127.0.0.1:9",
        close_timeout_seconds=0.0,
    ) as run:
        for step in range(20):
            run.metrics({"reward": 1.0}, step)
    threads = [
        threading.Thread(target=send_outbox, args=(tmp_path, stores.tracking_uri)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (task,) = tasks(client, parent)
    assert len(history(client, task.info.run_id, "reward")) == 20


def test_an_unreachable_server_at_the_start_of_a_pipeline_run_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9"):
        open_parent_run(
            "e", "run", tracking_uri="http://127.0.0.1:9", parameters={}, config_text="", tags={}
        )


def test_records_for_other_servers_are_not_sent(
    stores: EmbeddedServers, client: MlflowClient, parent: str, tmp_path: Path
) -> None:
    elsewhere = "http://127.0.0.1:9"
    with task_run("local", folder=tmp_path) as local:
        local.metrics({"reward": 1.0}, 0)
    for other in (None, "0" * 32):
        with task_run(
            "train",
            folder=tmp_path,
            parent_run_id=other,
            tracking_uri=elsewhere,
            close_timeout_seconds=0.0,
        ) as run:
            run.metrics({"reward": 1.0}, 0)
    with task_run(
        "train",
        folder=tmp_path,
        parent_run_id=parent,
        tracking_uri=elsewhere,
        close_timeout_seconds=0.0,
    ) as run:
        run.metrics({"reward": 1.0}, 0)
    send_outbox(tmp_path, stores.tracking_uri)
    (task,) = tasks(client, parent)
    assert history(client, task.info.run_id, "reward") == [(0, 1.0)]
    unsent = {path.parent.name for path in tmp_path.glob("*/records.jsonl")} - {
        path.parent.name for path in tmp_path.glob("*/sent.json")
    }
    assert len(unsent) == 3
