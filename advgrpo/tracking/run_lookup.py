"""Lookup of a pipeline run in MLflow by id or name, with its tasks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from advgrpo.errors import ConfigError
from advgrpo.tracking.connection import FAULTS, connect, describe_error, quoted
from advgrpo.tracking.uploader import TASK_TAG

WORKSPACE_TAG = "advgrpo.workspace"
"""Tag of a run with its workspace, which has its results and heartbeats."""

_ID = re.compile(r"[0-9a-f]{32}")
_LISTED = 10


@dataclass(frozen=True)
class FoundTask:
    """A task's run in MLflow."""

    task: str
    status: str
    """`RUNNING`, `FINISHED`, `FAILED` or `KILLED`."""

    started: datetime
    ended: datetime | None
    tags: Mapping[str, str]


@dataclass(frozen=True)
class FoundRun:
    """A pipeline run in MLflow."""

    run_id: str
    name: str
    status: str
    started: datetime
    workspace: str
    """Empty if the run has no such tag."""

    page: str
    artifacts: str
    tasks: tuple[FoundTask, ...]


def find_run(text: str, tracking_uri: str) -> FoundRun:
    """Find a run.

    Args:
        text: Id of the run or of one of its tasks' runs, or name of the run.
        tracking_uri: The MLflow server.

    Raises:
        ConfigError: If no run has the name, or several do.
        TrackingError: If MLflow is not available, or has no run with the id.
    """
    try:
        client = connect(tracking_uri)
        run = (
            client.get_run(text)
            if _ID.fullmatch(text)
            else _run_by_name(client, text, tracking_uri)
        )
        parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        # The id of a task's run is what MLflow's page shows for a failed task.
        if parent is not None:
            run = client.get_run(parent)
        nested = _search(client, [run.info.experiment_id], MLFLOW_PARENT_RUN_ID, run.info.run_id)
    except FAULTS as error:
        raise describe_error(error, f"find the run {text}", tracking_uri) from error
    path = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return FoundRun(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        started=_datetime(run.info.start_time),
        workspace=run.data.tags.get(WORKSPACE_TAG, ""),
        page=f"{tracking_uri.rstrip('/')}/#/{path}",
        artifacts=run.info.artifact_uri or "",
        tasks=tuple(_task(one) for one in nested if TASK_TAG in one.data.tags),
    )


def _run_by_name(client: MlflowClient, name: str, tracking_uri: str) -> Run:
    condition = f"attributes.run_name = {quoted(name)}"
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = [
        run
        for run in client.search_runs(
            experiments, condition, order_by=["attributes.start_time DESC"]
        )
        # A nested run may have the same name.
        if MLFLOW_PARENT_RUN_ID not in run.data.tags
    ]
    if not runs:
        raise ConfigError(
            f"the MLflow server {tracking_uri} has no run {name!r}",
            repair="use the id or name of a pipeline's MLflow run, or its workspace",
        )
    if len(runs) > 1:
        listed = "".join(
            f"\n    {run.info.run_id}  {_datetime(run.info.start_time):%Y-%m-%d %H:%M} UTC  "
            f"{run.info.status.lower()}"
            for run in runs[:_LISTED]
        )
        more = f"\n    and {len(runs) - _LISTED} older ones" if len(runs) > _LISTED else ""
        raise ConfigError(
            f"{len(runs)} runs have the name {name!r}:{listed}{more}",
            repair="use the id of one of them",
        )
    return runs[0]


def _search(client: MlflowClient, experiments: list[str], tag: str, value: str) -> list[Run]:
    # In order of their start: callers keep the last attempt of a task.
    order = ["attributes.start_time ASC"]
    return list(client.search_runs(experiments, f"tags.`{tag}` = '{value}'", order_by=order))


def _task(run: Run) -> FoundTask:
    ended = run.info.end_time
    return FoundTask(
        task=run.data.tags[TASK_TAG],
        status=run.info.status,
        started=_datetime(run.info.start_time),
        ended=None if not ended else _datetime(ended),
        tags=dict(run.data.tags),
    )


def _datetime(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
