"""Find a pipeline's run by what a person calls it, and read what MLflow knows of its tasks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from advgrpo.errors import ConfigError
from advgrpo.tracking.connection import FAULTS, connect, explained
from advgrpo.tracking.uploader import TASK_TAG

WORKSPACE_TAG = "advgrpo.workspace"
"""Tag of a run: where its results and its signs of life are."""

_ID = re.compile(r"[0-9a-f]{32}")
_NAMED = 10


@dataclass(frozen=True)
class FoundTask:
    """What MLflow knows of a task."""

    task: str
    status: str
    """`RUNNING`, `FINISHED`, `FAILED` or `KILLED`."""

    started: datetime
    ended: datetime | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class FoundRun:
    """What MLflow knows of a pipeline's run."""

    run_id: str
    name: str
    status: str
    started: datetime
    workspace: str
    """Empty for a run of a release that did not note it."""

    page: str
    artifacts: str
    tasks: tuple[FoundTask, ...]


def find_run(text: str, tracking_uri: str) -> FoundRun:
    """Find a run.

    Args:
        text: Its id, the id of one of its tasks' runs, or its name.
        tracking_uri: The MLflow server.

    Raises:
        ConfigError: If no run or more than one has the name.
        TrackingError: If MLflow is not available, or has no run of the id.
    """
    try:
        client = connect(tracking_uri)
        run = client.get_run(text) if _ID.fullmatch(text) else _named(client, text, tracking_uri)
        parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        if parent is not None:
            run = client.get_run(parent)
        nested = _search(client, [run.info.experiment_id], MLFLOW_PARENT_RUN_ID, run.info.run_id)
    except FAULTS as error:
        raise explained(error, f"find the run {text}", tracking_uri) from error
    run_with_deadline = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return FoundRun(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started=_moment(run.info.start_time),
        workspace=run.data.tags.get(WORKSPACE_TAG, ""),
        page=f"{tracking_uri.rstrip('/')}/#/{run_with_deadline}",
        artifacts=run.info.artifact_uri or "",
        tasks=tuple(_task(one) for one in nested if TASK_TAG in one.data.tags),
    )


def _named(client: MlflowClient, name: str, tracking_uri: str) -> Run:
    if "'" in name:
        raise ConfigError(f"{name!r} is no name of a run", repair="give the id of its MLflow run")
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = [
        run
        for run in client.search_runs(
            experiments, f"attributes.run_name = '{name}'", order_by=["attributes.start_time DESC"]
        )
        if MLFLOW_PARENT_RUN_ID not in run.data.tags
    ]
    if not found:
        raise ConfigError(
            f"the MLflow server {tracking_uri} has no run {name!r}",
            repair="give the id or name of a pipeline's MLflow run, or its workspace",
        )
    if len(found) > 1:
        listed = "".join(
            f"\n    {run.info.run_id}  {_moment(run.info.start_time):%Y-%m-%d %H:%M} UTC  "
            f"{run.info.status.lower()}"
            for run in found[:_NAMED]
        )
        more = f"\n    and {len(found) - _NAMED} older ones" if len(found) > _NAMED else ""
        raise ConfigError(
            f"{len(found)} runs are called {name!r}:{listed}{more}",
            repair="give the id of the one that you mean",
        )
    return found[0]


def _search(client: MlflowClient, experiments: list[str], tag: str, value: str) -> list[Run]:
    # The first one last, so that of two attempts the later one counts.
    order = ["attributes.start_time ASC"]
    return list(client.search_runs(experiments, f"tags.`{tag}` = '{value}'", order_by=order))


def _task(run: Run) -> FoundTask:
    ended = run.info.end_time
    return FoundTask(
        task=run.data.tags[TASK_TAG],
        status=run.info.status,
        started=_moment(run.info.start_time),
        ended=None if not ended else _moment(ended),
        tags=dict(run.data.tags),
    )


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
