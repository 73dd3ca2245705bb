"""Talk to an MLflow server without waiting for a dead one."""

import os
from collections.abc import Mapping

import requests  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException

from advgrpo.errors import TrackingError
from advgrpo.tracking.address import check_address

FAULTS = (MlflowException, requests.RequestException)
"""What a failed request raises."""

_REFUSALS = {"BAD_REQUEST", "INVALID_PARAMETER_VALUE"}
_BAD_REQUEST = 400
_PARAMETERS_LIMIT = 100
_VALUE_LIMIT = 6000
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def connect(tracking_uri: str) -> MlflowClient:
    """Make a client that gives up within two minutes, on a dead server within seconds.

    MLflow has no such setting but environment variables; those that are not set already are set
    for this process and its children.

    Raises:
        ConfigError: If the address holds a password, or certificates would not be checked.
    """
    check_address(tracking_uri)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def refuses(error: Exception) -> bool:
    """Tell a request that MLflow will never take from one that it may take later."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    return (
        isinstance(error, requests.HTTPError)
        and error.response is not None
        and error.response.status_code == _BAD_REQUEST
    )


def misses(error: Exception) -> bool:
    """Tell whether MLflow answers that there is nothing of the name or id."""
    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


def explained(error: Exception, what: str, tracking_uri: str) -> TrackingError:
    """Say what was attempted where.

    Args:
        error: What MLflow raised.
        what: What was attempted, as in "cannot {what}".
        tracking_uri: The server.
    """
    return TrackingError(
        f"cannot {what} on the MLflow server {tracking_uri}: {error}",
        repair=_repair(error),
    )


def _repair(error: Exception) -> str:
    text = str(error)
    if misses(error):
        return "check the name"
    if "Invalid Host header" in text:
        return (
            "start the server with --allowed-hosts and the name that it is called by here, with "
            "and without the port; the chart's value is mlflow.server.allowedHosts"
        )
    if "error code 401" in text or "error code 403" in text:
        return (
            "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, and what they may do"
        )
    return "check that the server runs and that MLFLOW_TRACKING_URI is right, then run again"


def log_parameters(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Log parameters, however many and however long."""
    parameters = [Param(name, value[:_VALUE_LIMIT]) for name, value in values.items()]
    for start in range(0, len(parameters), _PARAMETERS_LIMIT):
        client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_LIMIT])


def experiment_id(client: MlflowClient, name: str) -> str:
    """Find an experiment by name, or create it."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    try:
        return client.create_experiment(name)
    except MlflowException as error:
        experiment = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or experiment is None:
            raise
        return str(experiment.experiment_id)
