"""MLflow clients with short timeouts, and the meaning of their errors."""

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.exceptions import MlflowException, RestException

from advgrpo.errors import ConfigError, TrackingError
from advgrpo.tracking.address import check_address

FAULTS = (MlflowException, requests.RequestException)
"""Exceptions of a failed request."""

# A server or its proxy gives these to any request, until it is repaired or less busy.
_UNAVAILABLE = {401, 403, 404, 407, 408, 409, 423, 425, 429, 499}
_CLIENT_ERRORS = range(400, 500)
_STATUS = re.compile(r"failed with error code (\d{3})\b|too many (\d{3}) error responses")
_BAD_REQUEST = 400
_NO_ANSWER = re.compile(r"failed with (timeout )?exception")
_PARAMETERS_LIMIT = 100
_VALUE_LIMIT = 6000
_CHECK = "check that the server runs and that MLFLOW_TRACKING_URI is its address, then run again"
_LOGIN = (
    "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, and "
    "their permissions"
)
_STATUS_REPAIRS = {
    401: _LOGIN,
    403: _LOGIN,
    413: "raise the size limit of the proxy in front of the server; in nginx, client_max_body_size",
    500: "check the server's log, its database and its --artifacts-destination, then run again",
}
_REPAIRS = {
    # MLflow 3 refuses unknown host names to prevent DNS rebinding.
    "Invalid Host header": "start the server with --allowed-hosts and the host name used here, "
    "with and without the port; the chart's value is mlflow.server.allowedHosts",
    "must be in the 'active' state": "restore the deleted run or experiment in MLflow, or rename "
    "the deleted experiment, so that a new one is created",
    "Changing param values is not allowed": "use another run key: the run of this one was opened "
    "with other settings",
}
"""Repair by a part of MLflow's message."""
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
    # boto3, by which MLflow accesses a store that the server does not proxy, reads only the second.
    if region := os.environ.get("AWS_REGION"):
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    # MLflow would otherwise take the registry's address from the environment.
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of a failed request; None without an answer."""
    if isinstance(error, requests.RequestException):
        return None if error.response is None else int(error.response.status_code)
    text = str(error)
    # MLflow keeps the status of an answer that is not JSON, or that it retried, in the text alone.
    if found := _STATUS.search(text):
        return int(found[1] or found[2])
    if not isinstance(error, MlflowException) or _NO_ANSWER.search(text):
        return None
    # The client's own errors have this code by default.
    if error.error_code == "INTERNAL_ERROR" and not isinstance(error, RestException):
        return None
    return int(error.get_http_status_code())  # type: ignore[no-untyped-call]


def is_bad_request(error: Exception) -> bool:
    """Return whether MLflow refuses the content of a request, such as a name."""
    return status_of(error) == _BAD_REQUEST


def is_refused(error: Exception) -> bool:
    """Return whether MLflow will refuse a request for ever, rather than accept it later."""
    status = status_of(error)
    return status in _CLIENT_ERRORS and status not in _UNAVAILABLE


def may_fail_alone(error: Exception) -> bool:
    """Return whether the content of a request may be why it failed, rather than the server."""
    return status_of(error) in {403, 404, 409, 500, 501}


def is_remote_server(tracking_uri: str) -> bool:
    """Return whether a tracking URI is the address of a server rather than a local store."""
    return urlsplit(tracking_uri).scheme in {"http", "https"}


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
    text, status = str(error), status_of(error)
    for part, repair in _REPAIRS.items():
        if part in text:
            return repair
    if is_missing(error):
        return "use an existing name or id; `advgrpo registry list` shows the registered models"
    if status is None:
        return _CHECK
    if is_refused(error):
        return _STATUS_REPAIRS.get(status, "correct what the message names, then run again")
    return _STATUS_REPAIRS.get(status, _CHECK)


def quoted(text: str) -> str:
    """Return a text as a literal of MLflow's filters, which have no escape for quotation marks.

    Raises:
        ConfigError: If it cannot be one.
    """
    marks = [mark for mark in ("'", '"') if mark not in text]
    if not marks or "\\" in text or not text.isprintable():
        raise ConfigError(
            f"{text!r} cannot be looked up in MLflow",
            repair="use a name without backslashes and control characters, and with one kind of "
            "quotation marks at most",
        )
    return f"{marks[0]}{text}{marks[0]}"


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
