"""The MLflow run of a pipeline run, which the runs of its tasks are nested in."""

import os
from collections.abc import Mapping

from mlflow import MlflowClient

from advgrpo.redaction import redact
from advgrpo.tracking.connection import FAULTS, connect, experiment_id, explained, log_parameters
from advgrpo.tracking.parameters import flat

_KEY_TAG = "advgrpo.run"
_OURS_TAG = "advgrpo.opened"


def open_parent_run(
    experiment: str,
    name: str,
    *,
    tracking_uri: str,
    parameters: Mapping[str, object],
    config_text: str,
    tags: Mapping[str, str],
    key: str | None = None,
) -> str:
    """Open the run that the tasks' runs are nested in.

    If the environment has `MLFLOW_RUN_ID`, as in a Kubeflow pipeline that has its own MLflow run,
    that run is taken.

    Args:
        experiment: Name of the experiment; created if there is none.
        name: Name of the run.
        tracking_uri: The MLflow server.
        parameters: Settings to show beside the run; nested ones get names with dots.
        config_text: All settings, kept as the artifact `config.yaml`.
        tags: Tags to set.
        key: If a run of the experiment was opened with this key, that run is taken up again.

    Returns:
        The run's id.

    Raises:
        TrackingError: If MLflow is not available.
    """
    try:
        client = connect(tracking_uri)
        run_id = os.environ.get("MLFLOW_RUN_ID")
        if not run_id:
            run_with_deadline = experiment_id(client, experiment)
            run_id = _run_of(client, run_with_deadline, key) if key else None
            if run_id is None:
                marks = {_OURS_TAG: "true"} | ({_KEY_TAG: key} if key else {})
                run_id = client.create_run(run_with_deadline, run_name=name, tags=marks).info.run_id
            else:
                client.update_run(run_id, status="RUNNING")
        log_parameters(client, run_id, flat(parameters))
        client.log_text(run_id, redact(config_text), "config.yaml")
        for tag, value in tags.items():
            client.set_tag(run_id, tag, redact(value))
    except FAULTS as error:
        raise explained(error, f"open run {name!r}", tracking_uri) from error
    return run_id


def end_parent_run(run_id: str, *, tracking_uri: str, succeeded: bool) -> None:
    """End a run that `open_parent_run` opened; one that it only attached to is left alone.

    Raises:
        TrackingError: If MLflow is not available.
    """
    try:
        client = connect(tracking_uri)
        if _OURS_TAG in client.get_run(run_id).data.tags:
            client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")
    except FAULTS as error:
        raise explained(error, f"end run {run_id}", tracking_uri) from error


def _run_of(client: MlflowClient, run_with_deadline: str, key: str) -> str | None:
    found = client.search_runs([run_with_deadline], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1)
    return found[0].info.run_id if found else None
