"""The health check of an MLflow server and its artifact store."""

from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from advgrpo.errors import TrackingError
from advgrpo.tracking.artifacts import check_artifacts
from advgrpo.tracking.connection import FAULTS, connect, describe_error

_OLDEST = (3, 0)


def check_server(tracking_uri: str, experiment: str = "advgrpo") -> str:
    """Check access to an MLflow server and its artifact store, and its version.

    Args:
        tracking_uri: Address of the server.
        experiment: Experiment whose artifact store is tried.

    Returns:
        Version of the server.

    Raises:
        TrackingError: If it does not answer, refuses access, is too old, or cannot store artifacts.
    """
    try:
        # A proxy may leave /version open, so it alone would not detect a wrong password.
        connect(tracking_uri).search_experiments(max_results=1)
        access = get_default_host_creds(tracking_uri)  # type: ignore[no-untyped-call]
        answer = http_request(access, "/version", "GET")  # type: ignore[no-untyped-call]
    except FAULTS as error:
        raise describe_error(error, "read experiments", tracking_uri) from error
    version = str(answer.text).strip()
    numbers = version.split(".")[:2]
    # Any web server may answer /version, for instance with a log-in page.
    if not all(part.isdigit() for part in numbers) or len(numbers) < 2:
        raise TrackingError(
            f"{tracking_uri} does not report a version of MLflow",
            repair="set MLFLOW_TRACKING_URI to the address of an MLflow server",
        )
    if tuple(int(part) for part in numbers) < _OLDEST:
        raise TrackingError(
            f"the MLflow server {tracking_uri} has version {version}",
            repair="upgrade it to 3.0 or later, which logged models need",
        )
    try:
        check_artifacts(connect(tracking_uri), experiment, tracking_uri)
    except FAULTS as error:
        raise describe_error(error, "write an artifact", tracking_uri) from error
    return version
