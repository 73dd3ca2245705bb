"""Checks of everything that a run on a cluster needs: Kubernetes, S3, MLflow, Kubeflow Pipelines.

They are here because no lower room may import the cluster, tracking and this client together.
"""

import os
from collections.abc import Callable, Iterator

from advgrpo.cluster.checks.check import Check
from advgrpo.cluster.checks.doctor import examine
from advgrpo.errors import AdvGrpoError, ConfigError
from advgrpo.kfp_client import (
    Access,
    KfpRefusedError,
    KfpServer,
    PipelineDocument,
    endpoint_of,
)
from advgrpo.kfp_client.compiled import PIPELINE
from advgrpo.kfp_client.task_pod import task_pod
from advgrpo.storage.files import is_remote
from advgrpo.storage.probe import check_writable
from advgrpo.tracking.address import TRACKING_URI

_IN_CLUSTER_CHECK = "helm test checks it from inside the cluster"


def diagnose(
    *, access: Access, workspace: str = "", service_account: str = "", config_map: str = "advgrpo"
) -> Iterator[Check]:
    """Check everything that a run on a cluster needs.

    Args:
        access: Access to Kubeflow Pipelines; its namespace is also that of the jobs.
        workspace: `s3://` location of the runs' results; empty skips its check.
        service_account: Service account whose permissions to check; empty for the caller's.
        config_map: ConfigMap with the chart's settings.
    """
    document = PipelineDocument.read(PIPELINE)
    yield from examine(
        namespace=access.namespace,
        service_account=service_account,
        config_map=config_map,
        task_pod=lambda settings: task_pod(document, settings),
    )
    yield _workspace(workspace)
    yield _mlflow()
    yield _kfp(access)


def _workspace(workspace: str) -> Check:
    name = f"workspace {workspace or '(none given)'}"
    if not workspace:
        return Check(name, "SKIP", "use --workspace s3://bucket/folder to check one")
    # A local folder is valid for runs on this machine only.
    if not is_remote(workspace):
        return Check(
            name, "FAIL", "a cluster's pods cannot reach it", "use an s3://bucket/folder location"
        )

    def attempt() -> str:
        check_writable(workspace)
        return "a file was written, read and deleted"

    return _check(name, attempt)


def _mlflow() -> Check:
    tracking_uri = os.environ.get(TRACKING_URI, "")
    name = f"MLflow {tracking_uri or '(none)'}"
    if not tracking_uri:
        return Check(name, "SKIP", f"{TRACKING_URI} is not set here; {_IN_CLUSTER_CHECK}")

    def attempt() -> str:
        # MLflow takes seconds to load.
        from advgrpo.tracking.health import check_server  # noqa: PLC0415

        return f"version {check_server(tracking_uri)}"

    try:
        return _check(name, attempt)
    except ModuleNotFoundError as error:
        repair = "pip install 'advgrpo[launcher]'"
        return Check(name, "SKIP", f"the package {error.name} is not installed here", repair)


def _kfp(access: Access) -> Check:
    name = "Kubeflow Pipelines"

    try:
        endpoint_of(access)
    except ConfigError as error:
        return Check(name, "SKIP", error.message, error.repair)

    def attempt() -> str:
        server = KfpServer(access)
        try:
            server.read(
                "list runs",
                server.runs.run_service_list_runs,
                page_size=1,
                **server.namespace_filter,
            )
        except KfpRefusedError as error:
            # Only users may list runs; the service account of the chart's test may not.
            if error.status != 403:
                raise
            return f"{server.endpoint} answers; this account may not list runs, as users may"
        mode = f"namespace {server.namespace}" if server.namespace else "single-user mode"
        return f"{server.endpoint} answers, {mode}"

    return _check(name, attempt)


def _check(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, "OK", attempt())
    except AdvGrpoError as error:
        return Check(name, "FAIL", error.message, error.repair)
