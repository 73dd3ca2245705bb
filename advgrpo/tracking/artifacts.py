"""The artifact store of an MLflow server: where it is, and errors of its access.

A server that proxies artifacts has locations with the scheme `mlflow-artifacts`. Otherwise MLflow's
client reads and writes the store itself, with its own credentials.
"""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from advgrpo.errors import AdvGrpoError, TrackingError
from advgrpo.tracking.connection import FAULTS, is_remote_server

_LOCAL = {"", "file"}
_DEFAULT_EXPERIMENT = "0"
_PROXY = (
    "start the server with --serve-artifacts and --artifacts-destination; an experiment keeps the "
    "location that it was created with, so rename an existing one in MLflow"
)


def check_location(location: str, tracking_uri: str) -> None:
    """Check that artifacts do not go to this machine's disk instead of the server's.

    Args:
        location: Location of an experiment's, run's or model's artifacts, from MLflow.
        tracking_uri: The MLflow server.

    Raises:
        TrackingError: If the location is a path on the server's disk.
    """
    if is_remote_server(tracking_uri) and urlsplit(location).scheme in _LOCAL:
        raise TrackingError(
            f"the MLflow server {tracking_uri} does not proxy artifacts: it stores them in "
            f"{location}, a path of its own disk, which would be written on this machine instead",
            repair=_PROXY,
        )


@contextmanager
def artifact_errors(action: str, location: str, tracking_uri: str) -> Iterator[None]:
    """Convert the errors of an artifact store that MLflow does not convert itself.

    Args:
        action: The attempted action, as in "cannot {action}".
        location: Location of the artifacts, from MLflow.
        tracking_uri: The MLflow server.

    Raises:
        TrackingError: For any error but those of MLflow's server.
    """
    try:
        yield
    except (AdvGrpoError, *FAULTS):
        raise
    # Each kind of store has its own exceptions: of boto3, of Azure's and Google's clients, OSError.
    except Exception as error:
        check_location(location, tracking_uri)
        raise TrackingError(
            f"cannot {action} in the artifact store {location}, which the MLflow server "
            f"{tracking_uri} does not proxy: {error}",
            repair="set the credentials of the store here (for S3, AWS_ACCESS_KEY_ID, "
            f"AWS_SECRET_ACCESS_KEY and MLFLOW_S3_ENDPOINT_URL), or {_PROXY}",
        ) from error


def check_artifacts(client: MlflowClient, experiment: str, tracking_uri: str) -> None:
    """Write, list and delete an artifact where those of an experiment are stored.

    Args:
        client: Client of the server.
        experiment: Name of the experiment; if it does not exist, MLflow's default one is used.
        tracking_uri: The MLflow server.

    Raises:
        TrackingError: If the store cannot be used.
        MlflowException: If the server refuses.
        RequestException: If the server cannot reach its store.
    """
    found = client.get_experiment_by_name(experiment) or client.get_experiment(_DEFAULT_EXPERIMENT)
    location = str(found.artifact_location)
    check_location(location, tracking_uri)
    folder, name = f"{location}/advgrpo-doctor-{uuid.uuid4().hex}", "probe.txt"
    with (
        tempfile.TemporaryDirectory() as local,
        artifact_errors("write and delete an artifact", location, tracking_uri),
    ):
        store = get_artifact_repository(folder, tracking_uri=tracking_uri)
        Path(local, name).write_text("a probe of advgrpo doctor", encoding="utf-8")
        try:
            store.log_artifact(str(Path(local, name)))  # type: ignore[no-untyped-call]
            listed = [file.path for file in store.list_artifacts()]
        finally:
            # Not every store can delete, and its error must not replace that of the write.
            with suppress(Exception):
                store.delete_artifacts()  # type: ignore[no-untyped-call]
    if name not in listed:
        raise TrackingError(
            f"the artifact store {location} does not list an artifact that was just written",
            repair="check the server's --artifacts-destination and its log",
        )
