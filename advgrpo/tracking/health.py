"""Find out whether an MLflow server can be used."""

from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from advgrpo.errors import TrackingError
from advgrpo.tracking.connection import FAULTS, connect, explained

_OLDEST = (3, 0)


def check_server(tracking_uri: str) -> str:
    """Ask an MLflow server something that needs access, and which version it is.

    Args:
        tracking_uri: Its address.

    Returns:
        Its version.

    Raises:
        TrackingError: If it does not answer, refuses who asks, or is too old.
    """
    try:
        connect(tracking_uri).search_experiments(max_results=1)
        access = get_default_host_creds(tracking_uri)  # type: ignore[no-untyped-call]
        answer = http_request(access, "/version", "GET")  # type: ignore[no-untyped-call]
    except FAULTS as error:
        raise explained(error, "read experiments", tracking_uri) from error
    version = str(answer.text).strip()
    numbers = version.split(".")[:2]
    if not all(part.isdigit() for part in numbers) or len(numbers) < 2:
        raise TrackingError(
            f"{tracking_uri} does not say which version of MLflow it is",
            repair="check that MLFLOW_TRACKING_URI is the address of an MLflow server",
        )
    if tuple(int(part) for part in numbers) < _OLDEST:
        raise TrackingError(
            f"the MLflow server {tracking_uri} is of version {version}",
            repair="upgrade it to 3.0 or later: advgrpo logs models as MLflow 3 does",
        )
    return version
