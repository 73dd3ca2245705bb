"""MLflow clients with short timeouts, and the meaning of their errors."""

import os
from collections.abc import Mapping

import requests  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException

from advgrpo.errors import TrackingError
from advgrpo.tracking.address import check_address

FAULTS = (MlflowException, requests.RequestException)
"""Exceptions of a failed request."""

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
    """Return a client whose requests fail within two minutes, on a dead server within seconds.

    MLflow reads its timeouts from environment variables alone; those that are unset are set for
    this process and its children.

    Raises:
        ConfigError: If the address contains a password, or certificates would not be verified.
    """
    check_address(tracking_uri)
    for name, value in _DEFAULTS.items():
        # Not overwritten: the user may need longer timeouts.
        os.environ.setdefault(name, value)
    # MLflow would otherwise take the registry's address from the environment.
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def is_refused(error: Exception) -> bool:
    """Return whether MLflow will refuse a request for ever, rather than accept it later."""
    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    return (
        isinstance(error, requests.HTTPError)
        and error.response is not None
        # Other statuses, such as 401 or 503, can pass once the server or its proxy is fixed.
        and error.response.status_code == _BAD_REQUEST
    )


def is_missing(error: Exception) -> bool:
    """Return whether MLflow answers that the name or id does not exist."""
    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


def describe_error(error: Exception, action: str, tracking_uri: str) -> TrackingError:
    """Return a tracking error with the failed action, its cause and a repair.

    Args:
        error: One of `FAULTS`.
        action: The failed action, as in "cannot {action}".
        tracking_uri: The server.
    """
    return TrackingError(
        f"cannot {action} on the MLflow server {tracking_uri}: {error}",
        repair=_repair(error),
    )


def _repair(error: Exception) -> str:
    text = str(error)
    if is_missing(error):
        return "use an existing name or id; `advgrpo registry list` shows the registered models"
    # MLflow 3 refuses unknown host names to prevent DNS rebinding.
    if "Invalid Host header" in text:
        return (
            "start the server with --allowed-hosts and the host name used here, with and without "
            "the port; the chart's value is mlflow.server.allowedHosts"
        )
    if "error code 401" in text or "error code 403" in text:
        return (
            "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN, and their permissions"
        )
    return "check that the server runs and that MLFLOW_TRACKING_URI is its address, then run again"


def log_parameters(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Log parameters within MLflow's limits: in batches, with long values truncated."""
    # Truncated, because MLflow refuses the whole batch for one long value.
    parameters = [Param(name, value[:_VALUE_LIMIT]) for name, value in values.items()]
    for start in range(0, len(parameters), _PARAMETERS_LIMIT):
        client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_LIMIT])


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    try:
        return client.create_experiment(name)
    except MlflowException as error:
        # Another process may have created it in the meantime.
        experiment = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or experiment is None:
            raise
        return str(experiment.experiment_id)
