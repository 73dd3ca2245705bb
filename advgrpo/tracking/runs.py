"""The MLflow run of a pipeline run, parent of the runs of its tasks."""

import os
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from advgrpo.redaction import redact
from advgrpo.telemetry.kfp_plugin import plugin_run
from advgrpo.tracking.artifacts import artifact_errors, check_location
from advgrpo.tracking.connection import (
    FAULTS,
    connect,
    describe_error,
    experiment_id,
    log_parameters,
    quoted,
)
from advgrpo.tracking.parameters import flatten

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
    """Open the parent of the tasks' runs.

    If the environment has `MLFLOW_RUN_ID`, that run is used; if the MLflow plugin of Kubeflow
    Pipelines has set it, the run of the pipeline that it is nested in.

    Args:
        experiment: Name of the experiment; created if it does not exist.
        name: Name of the run.
        tracking_uri: The MLflow server.
        parameters: Settings to log as parameters; nested ones get dotted names.
        config_text: All settings, for the artifact `config.yaml`.
        tags: Tags to set.
        key: Key by which an earlier run of the experiment is resumed.

    Returns:
        Id of the run.

    Raises:
        TrackingError: If MLflow or its artifact store is not available.
        ConfigError: If the key cannot be looked up.
    """
    try:
        client = connect(tracking_uri)
        run_id = os.environ.get("MLFLOW_RUN_ID")
        if plugin_run():
            run_id = client.get_run(plugin_run()).data.tags.get(MLFLOW_PARENT_RUN_ID, run_id)
        if not run_id:
            experiment_number = experiment_id(client, experiment)
            run_id = _find_run(client, experiment_number, key) if key else None
            if run_id is None:
                marker_tags = {_OURS_TAG: "true"} | ({_KEY_TAG: key} if key else {})
                run_id = client.create_run(
                    experiment_number, run_name=name, tags=marker_tags
                ).info.run_id
            else:
                # The earlier attempt ended the run.
                client.update_run(run_id, status="RUNNING")
        # Repeated by each attempt: MLflow accepts a parameter again if its value is unchanged.
        log_parameters(client, run_id, flatten(parameters))
        _write_config(client, run_id, config_text, tracking_uri)
        for tag, value in tags.items():
            client.set_tag(run_id, tag, redact(value))
    except FAULTS as error:
        raise describe_error(error, f"open run {name!r}", tracking_uri) from error
    return run_id


def end_parent_run(run_id: str, *, tracking_uri: str, succeeded: bool) -> None:
    """End a run that `open_parent_run` created; an attached run is not changed.

    Raises:
        TrackingError: If MLflow is not available.
    """
    try:
        client = connect(tracking_uri)
        # A run from MLFLOW_RUN_ID belongs to the program that set it.
        if _OURS_TAG in client.get_run(run_id).data.tags:
            client.set_terminated(run_id, "FINISHED" if succeeded else "FAILED")
    except FAULTS as error:
        raise describe_error(error, f"end run {run_id}", tracking_uri) from error


def _write_config(client: MlflowClient, run_id: str, text: str, tracking_uri: str) -> None:
    # Of all artifacts the first: a store that fails is found before hours of work.
    run = client.get_run(run_id)
    location = str(run.info.artifact_uri)
    try:
        check_location(location, tracking_uri)
        with artifact_errors("write config.yaml", location, tracking_uri):
            client.log_text(run_id, redact(text), "config.yaml")
    except Exception:
        # It would stay as running.
        if _OURS_TAG in run.data.tags:
            client.set_terminated(run_id, "FAILED")
        raise


def _find_run(client: MlflowClient, experiment_number: str, key: str) -> str | None:
    runs = client.search_runs(
        [experiment_number], f"tags.`{_KEY_TAG}` = {quoted(key)}", max_results=1
    )
    return runs[0].info.run_id if runs else None
