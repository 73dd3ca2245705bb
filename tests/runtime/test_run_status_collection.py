import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ConfigError, Preempted, StorageUnavailableError, TrackingError
from advgrpo.runtime import heartbeat as heartbeat_module
from advgrpo.runtime.heartbeat import heartbeat, write_run_info
from advgrpo.runtime.pipeline_tasks import PIPELINE_TASKS
from advgrpo.runtime.run_status import RunStatus
from advgrpo.runtime.run_status_collection import run_status
from advgrpo.runtime.run_status_text import status_lines
from advgrpo.runtime.task_context import FAILURE_TAG, track_task
from advgrpo.telemetry.logging import event
from advgrpo.telemetry.progress import Progress
from advgrpo.tracking.run_lookup import WORKSPACE_TAG
from advgrpo.tracking.runs import end_parent_run, open_parent_run
from advgrpo.training.loop import train
from advgrpo.training.state import TrainingState
from tests.training.conftest import World, world

__all__ = ["world"]

TASKS = [task.name for task in PIPELINE_TASKS]
RUN = "0123456789abcdef0123456789abcdef"
logger = logging.getLogger("advgrpo")


def _status(workspace: Path, *, later: float = 0.0, tracking_uri: str = "") -> RunStatus:
    now = datetime.now(UTC) + timedelta(seconds=later)
    return run_status(str(workspace), tracking_uri=tracking_uri, now=now)


def _text(status: RunStatus) -> str:
    return "\n".join(status_lines(status))


def _run(workspace: Path, *tasks: str, run: str = RUN) -> None:
    """Write the heartbeats of finished tasks."""
    write_run_info(str(workspace), run, {"name": "pocket"})
    for task in tasks:
        with heartbeat(task, str(workspace), run):
            logger.warning("%s warns", task)


def _states(status: RunStatus) -> dict[str, str]:
    return {task.task: task.state for task in status.tasks}


def test_a_run_is_finished_when_all_of_its_tasks_are(tmp_path: Path) -> None:
    _run(tmp_path, *TASKS[1:])
    status = _status(tmp_path)
    assert status.state == "finished"
    assert _states(status) == dict.fromkeys(TASKS, "finished")
    assert _text(status).startswith(f"run pocket {RUN} is finished; it is ")
    assert "register warns" in _text(status)


def test_a_real_training_is_followed_to_its_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_module, "_MIN_SECONDS_BETWEEN", 0.01)
    state = world.state(tmp_path / "training", "training.checkpoint_every_updates=1")
    write_run_info(str(tmp_path), RUN, {"name": "pocket"})
    with pytest.raises(Preempted), heartbeat("train", str(tmp_path), RUN):
        _stop_after(state, updates=1)
        train(state)
    stopped = _status(tmp_path, later=60)
    assert stopped.state == "stopped"
    assert "the task train was stopped: training was stopped by a signal" in stopped.error
    assert stopped.repair.endswith("; it resumes from update 1")
    progress, checkpoint = stopped.current.progress, stopped.checkpoint
    assert progress is not None
    assert (progress.done, progress.total, progress.unit) == (1, 2, "updates")
    assert checkpoint is not None
    assert (checkpoint.rollout, checkpoint.update) == (1, 1)
    assert checkpoint.bytes > 1000
    assert Path(checkpoint.location).is_dir()
    assert "update 1, rollout 1, 1 min 0" in _text(stopped)

    again = world.state(tmp_path / "training", "training.checkpoint_every_updates=1")
    assert again.resume()
    with heartbeat("train", str(tmp_path), RUN):
        train(again)
    done = _status(tmp_path)
    assert _states(done)["train"] == "finished"
    assert done.checkpoint is not None
    assert done.checkpoint.update == 2
    assert done.state == "waiting"
    assert "waits for its next task" in _text(done)


def _stop_after(session: TrainingState, *, updates: int) -> None:
    """Request a stop, as SIGTERM does, after some updates."""
    check = session.stop.check

    def stop() -> None:
        session.stop._received = session.counters.updates >= updates
        check()

    session.stop.check = stop  # type: ignore[method-assign]


def test_progress_has_an_estimated_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_module, "_MIN_SECONDS_BETWEEN", 0.01)
    content: dict[str, Any] = {"phase": "adversarial training", "done": 30, "total": 120}
    content |= {"unit": "updates", "seconds_each": 20.0, "seconds_left": 1800.0}
    with heartbeat("train", str(tmp_path), RUN):
        heartbeat_module.progress.publish({**content, "metrics": {"reward": 0.25}})
    file = tmp_path / "runs" / RUN / "train" / "task.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"state": "running"}))
    status = _status(tmp_path, later=60)
    assert status.state == "running"
    text = _text(status)
    assert "adversarial training: 30 of 120 updates (25%), reward 0.25" in text
    assert "20 s each, done in about 29 min" in text
    assert "heartbeat   1 min 00 s ago" in text


def test_a_task_without_heartbeats_is_unresponsive(tmp_path: Path) -> None:
    _run(tmp_path, "reference-images")
    with heartbeat("train", str(tmp_path), RUN):
        Progress("adversarial training", 9, "updates").advance(4)
    file = tmp_path / "runs" / RUN / "train" / "task.json"
    content = json.loads(file.read_text())
    # The file after a SIGKILL.
    del content["ended"]
    file.write_text(json.dumps(content | {"state": "running"}))
    assert _status(tmp_path, later=60).state == "running"
    status = _status(tmp_path, later=42 * 60)
    assert status.state == "unresponsive"
    assert "the task train has sent no heartbeat for 42 min 0" in status.error
    assert "run it again with the same settings and workspace" in status.repair
    assert "adversarial training: 4 of 9 updates" in _text(status)


def test_a_failure_is_shown_with_its_repair(tmp_path: Path) -> None:
    _run(tmp_path, "reference-images")
    error = StorageUnavailableError("the server does not respond", repair="start it")
    with pytest.raises(StorageUnavailableError), heartbeat("train", str(tmp_path), RUN):
        raise error
    status = _status(tmp_path)
    assert (status.state, status.repair) == ("failed", "start it")
    text = _text(status)
    assert "error: the task train failed: the server does not respond\n  repair: start it" in text


def test_the_launchers_failure_counts_after_the_end_of_its_job(tmp_path: Path) -> None:
    workspace = str(tmp_path)
    with (
        pytest.raises(StorageUnavailableError),
        heartbeat("pretrain-reward", workspace, RUN, role="launcher"),
    ):
        note = event("job_state", state="running")
        logger.info("job-1: running, 1 of 2 pods run", extra=note)
        with pytest.raises(Preempted), heartbeat("pretrain-reward", workspace, RUN):
            raise Preempted("stopped")
        between = _status(tmp_path)
        raise StorageUnavailableError("the job failed", repair="look at it")
    assert between.state == "running"
    status = _status(tmp_path)
    assert [task.task for task in status.tasks] == ["pretrain-reward"]
    assert status.current.error == "the job failed"
    assert status.current.job == "job-1: running, 1 of 2 pods run"


def test_alarms_stand_out(tmp_path: Path) -> None:
    with heartbeat("train", str(tmp_path), RUN):
        logger.warning("the reward looks hacked\nat update 3", extra=event("alarm_raised"))
    assert "train: ALARM: the reward looks hacked; at update 3" in _text(_status(tmp_path))


def test_a_long_pause_between_two_tasks_is_unresponsive(tmp_path: Path) -> None:
    _run(tmp_path, "reference-images")
    assert _status(tmp_path, later=120).state == "waiting"
    status = _status(tmp_path, later=7200)
    assert status.state == "unresponsive"
    assert "no task has started since reference-images ended 2 h 00 min ago" in status.error


def test_the_newest_run_of_a_workspace_is_chosen(tmp_path: Path) -> None:
    _run(tmp_path, "train", run="a" * 32)
    _run(tmp_path, "train", run="b" * 32)
    status = _status(tmp_path)
    assert status.run == "b" * 32
    assert status.other_runs == ("a" * 32,)
    assert "other runs  " + "a" * 32 in _text(status)


def test_a_workspace_may_have_another_path_here(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    write_run_info(str(there), RUN, {})
    with heartbeat("train", str(there), RUN):
        facts = {"update": 2, "rollout": 3, "place": f"{there}/training/1/checkpoints"}
        logger.info("saved", extra=event("checkpoint_saved", **facts))
    saved = there / "training" / "1" / "checkpoints" / "rollout-00000003"
    saved.mkdir(parents=True)
    (saved / "commit.json").write_text("{}")
    there.rename(here)
    checkpoint = _status(here).checkpoint
    assert checkpoint is not None
    assert checkpoint.location == f"{here}/training/1/checkpoints/rollout-00000003"


def test_a_dumped_rollout_is_not_a_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "training" / "1" / "checkpoints"
    with heartbeat("train", str(tmp_path), RUN):
        facts = {"update": 2, "rollout": 3, "place": str(place)}
        logger.info("saved", extra=event("checkpoint_saved", **facts))
    kept = place / "non-finite" / "rollout-00000004-rank-0"
    kept.mkdir(parents=True)
    (kept / "commit.json").write_text("{}")
    assert _status(tmp_path).checkpoint is None


def test_a_foreign_file_is_ignored(tmp_path: Path) -> None:
    _run(tmp_path, "train")
    for name, text in (("notes.txt", "hello"), ("evaluate/task.json", '{"state": 1}')):
        file = tmp_path / "runs" / RUN / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert _states(_status(tmp_path))["evaluate"] == "pending"


_AT = "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    "change",
    [
        {"role": "friend"},
        {"state": "asleep"},
        {"started": None},
        {"heartbeat_at": "2026-01-01"},
        {"heartbeat_at": "2026-01-01T00:00:00"},
        {"warnings": [{"at": _AT, "text": ["x"]}]},
        {"warnings": {}},
        {"checkpoint": {"rollout": 1}},
        {"checkpoint": {"rollout": 1, "update": 1, "event": "resumed", "at": _AT, "place": "a\0"}},
        {"failure": ["x"]},
        {"progress": {"phase": None}},
        {"progress": {"done": "1"}},
        {"progress": {"seconds_left": 10**400}},
        {"progress": {"metrics": {"reward": "high"}}},
    ],
)
def test_a_heartbeat_of_another_schema_is_ignored(tmp_path: Path, change: dict[str, Any]) -> None:
    _run(tmp_path, "train", "evaluate")
    file = tmp_path / "runs" / RUN / "evaluate" / "task.json"
    progress = {
        "phase": "x", "done": 1, "total": 2, "unit": "images", "at": _AT,
        "seconds_each": None, "seconds_left": None, "metrics": {},
    }  # fmt: skip
    content = json.loads(file.read_text()) | {"progress": progress}
    file.write_text(json.dumps(content))
    assert _states(_status(tmp_path))["evaluate"] == "finished"
    if "progress" in change:
        change = {"progress": progress | change["progress"]}
    file.write_text(json.dumps(content | change))
    status = _status(tmp_path)
    assert _states(status) | {"evaluate": "pending"} == _states(status)
    assert _text(status)


@pytest.mark.parametrize("repeated", [False, True])
def test_run_info_that_is_not_one_is_ignored(tmp_path: Path, repeated: bool) -> None:
    _run(tmp_path, "train")
    file = tmp_path / "runs" / RUN / "run.json"
    text = file.read_text()
    file.write_text(text.replace("{", '{"name": "other", ') if repeated else '{"name": "pocket"}')
    status = _status(tmp_path)
    assert _states(status) == {"train": "finished"}
    assert status.name == ""


@pytest.mark.parametrize("place", ["/", "..", "s3://bucket/other"])
def test_checkpoints_are_read_from_the_workspace_alone(tmp_path: Path, place: str) -> None:
    with heartbeat("train", str(tmp_path), RUN):
        facts = {"update": 2, "rollout": 3, "place": place}
        logger.info("saved", extra=event("checkpoint_saved", **facts))
    status = _status(tmp_path)
    assert status.checkpoint is None
    assert status.unavailable == (f"checkpoints: {place} is not in {tmp_path}",)


@pytest.fixture
def parent(stores: EmbeddedServers, tmp_path: Path) -> Callable[[str], str]:
    def opened(name: str) -> str:
        return open_parent_run(
            "status",
            name,
            tracking_uri=stores.tracking_uri,
            parameters={},
            config_text="",
            tags={WORKSPACE_TAG: str(tmp_path / "workspace")},
        )

    return opened


def test_a_run_is_found_by_id_name_or_the_id_of_one_of_its_tasks(
    stores: EmbeddedServers, parent: Callable[[str], str], tmp_path: Path
) -> None:
    run = parent("found by its name")
    with track_task("evaluate", run, str(tmp_path / "workspace")) as task:
        task_id = task.run_id()
    for text in (run, task_id, "found by its name"):
        status = run_status(text, tracking_uri=stores.tracking_uri)
        assert status.run == run
        assert status.name == "found by its name"
        assert status.page.endswith(f"/runs/{run}")
        assert _states(status)["evaluate"] == "finished"
        assert _states(status)["train"] == "pending"
    of_workspace = _status(tmp_path / "workspace", tracking_uri=stores.tracking_uri)
    assert of_workspace.run == run
    end_parent_run(run, tracking_uri=stores.tracking_uri, succeeded=True)
    assert run_status(run, tracking_uri=stores.tracking_uri).state == "finished"


def test_the_reason_of_a_failure_comes_from_mlflow_alone(
    stores: EmbeddedServers, parent: Callable[[str], str]
) -> None:
    run = parent("without a workspace")
    with pytest.raises(ConfigError), track_task("register", run):
        raise ConfigError("seed=x is not a number", repair="write a number")
    status = run_status(run, tracking_uri=stores.tracking_uri)
    assert status.state == "failed"
    assert status.error == "the task register failed: seed=x is not a number"
    assert status.repair == "write a number"


def test_a_retry_that_succeeds_removes_the_failure(
    stores: EmbeddedServers, parent: Callable[[str], str]
) -> None:
    run, client = parent("at the second attempt"), MlflowClient(stores.tracking_uri)
    with pytest.raises(ConfigError), track_task("register", run):
        raise ConfigError("seed=x is not a number", repair="write a number")
    with track_task("register", run) as task:
        task_id = task.run_id()
    assert FAILURE_TAG not in client.get_run(task_id).data.tags
    # Another exception sets no tag, and must not be shown as the failure before it.
    with pytest.raises(ConfigError), track_task("register", run):
        raise ConfigError("seed=x is not a number", repair="write a number")
    with pytest.raises(ZeroDivisionError), track_task("register", run):
        raise ZeroDivisionError
    status = run_status(run, tracking_uri=stores.tracking_uri)
    assert status.error == "the task register failed: see the log of the task"


def test_a_name_that_several_runs_have_is_refused_with_their_ids(
    stores: EmbeddedServers, parent: Callable[[str], str]
) -> None:
    ids = [parent("twice"), parent("twice")]
    with pytest.raises(ConfigError, match="2 runs have the name 'twice'") as refused:
        run_status("twice", tracking_uri=stores.tracking_uri)
    assert all(run in str(refused.value) for run in ids)


@pytest.mark.parametrize("name", ["none of this name", "it's"])
def test_a_name_that_no_run_has_is_refused(name: str, stores: EmbeddedServers) -> None:
    with pytest.raises(ConfigError, match="run"):
        run_status(name, tracking_uri=stores.tracking_uri)


def test_an_id_that_no_run_has_is_refused(stores: EmbeddedServers) -> None:
    with pytest.raises(TrackingError, match=f"cannot find the run {RUN}"):
        run_status(RUN, tracking_uri=stores.tracking_uri)


def test_without_mlflow_a_name_is_refused_and_a_workspace_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match="without an MLflow server"):
        run_status("pocket", tracking_uri="")
    with pytest.raises(ConfigError, match="there is no heartbeat of a run in"):
        _status(tmp_path)
    _run(tmp_path, "train")
    dead = "http://127.0.0.1:9"
    status = _status(tmp_path, tracking_uri=dead)
    assert _states(status)["train"] == "finished"
    assert status.unavailable[0].startswith(f"MLflow: cannot find the run {RUN}")
    assert "not available\n  MLflow: " in _text(status)
    with pytest.raises(TrackingError, match=dead):
        run_status("pocket", tracking_uri=dead)


def test_without_the_workspace_mlflow_is_enough(
    stores: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_parent_run(
        "status",
        "s3 is away",
        tracking_uri=stores.tracking_uri,
        parameters={},
        config_text="",
        tags={WORKSPACE_TAG: "s3://advgrpo/away"},
    )
    with track_task("train", run):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    status = run_status(run, tracking_uri=stores.tracking_uri)
    assert _states(status)["train"] == "finished"
    assert status.unavailable[0].startswith("the workspace: cannot list s3://advgrpo/away")


def test_the_command_prints_text_or_json(tmp_path: Path) -> None:
    _run(tmp_path, "train")
    invoke = CliRunner().invoke
    printed_text = invoke(app, ["status", str(tmp_path)])
    assert printed_text.exit_code == 0
    assert "task           " in printed_text.output
    printed = invoke(app, ["status", str(tmp_path), "--json"])
    content = json.loads(printed.output)
    assert content["run"] == RUN
    assert content["state"] == "waiting"
    assert [task["task"] for task in content["tasks"]] == TASKS


def test_the_status_loads_no_torch() -> None:
    import subprocess

    program = (
        "import sys, advgrpo.runtime.run_status_text, advgrpo.runtime.run_status_collection\n"
        "import advgrpo.tracking.run_lookup\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
