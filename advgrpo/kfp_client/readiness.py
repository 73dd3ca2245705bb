"""Look at all that a run needs: cluster, object store, MLflow, Kubeflow Pipelines."""

import os
from collections.abc import Callable, Iterator

from advgrpo.cluster.doctor import Check, examine
from advgrpo.errors import AdvGrpoError, ConfigError
from advgrpo.kfp_client import Access, KfpRefusedError, KfpServer, endpoint_of
from advgrpo.storage import check_writable
from advgrpo.tracking.address import TRACKING_URI

_NOT_FROM_HERE = "helm test looks at it from inside the cluster"


def diagnose(
    *, access: Access, workspace: str = "", service_account: str = "", config_map: str = "advgrpo"
) -> Iterator[Check]:
    """Look at everything, and say of each thing whether it is as a run needs it.

    Args:
        access: How to reach Kubeflow Pipelines; its namespace is also the one where jobs run.
        workspace: `s3://` location that runs are to write to; empty leaves it out.
        service_account: Whose rights on the cluster to look at; empty for those of who asks.
        config_map: ConfigMap with the chart's settings.
    """
    yield from examine(
        namespace=access.namespace, service_account=service_account, config_map=config_map
    )
    yield _workspace(workspace)
    yield _mlflow()
    yield _kfp(access)


def _workspace(workspace: str) -> Check:
    name = f"workspace {workspace or '(none given)'}"
    if not workspace:
        return Check(name, "SKIP", "give --workspace s3://bucket/folder to have it tried")
    if not workspace.startswith("s3://"):
        return Check(
            name, "FAIL", "a cluster's pods cannot reach it", "use an s3://bucket/folder location"
        )

    def attempt() -> str:
        check_writable(workspace)
        return "a file could be written, read and deleted"

    return _tried(name, attempt)


def _mlflow() -> Check:
    tracking_uri = os.environ.get(TRACKING_URI, "")
    name = f"MLflow {tracking_uri or '(none)'}"
    if not tracking_uri:
        return Check(name, "SKIP", f"{TRACKING_URI} is not set here; {_NOT_FROM_HERE}")

    def attempt() -> str:
        # MLflow takes seconds to load.
        from advgrpo.tracking.health import check_server  # noqa: PLC0415

        return f"version {check_server(tracking_uri)}"

    try:
        return _tried(name, attempt)
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
            server.look(
                "list runs", server.runs.run_service_list_runs, page_size=1, **server.within
            )
        except KfpRefusedError as error:
            # Runs are people's, and not those of a pod that looks around.
            if error.status != 403:
                raise
            return f"{server.endpoint} answers; who asks may not list runs, which is for people"
        users = f"as a user of {server.namespace}" if server.namespace else "with a single user"
        return f"{server.endpoint} answers, {users}"

    return _tried(name, attempt)


def _tried(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, "OK", attempt())
    except AdvGrpoError as error:
        return Check(name, "FAIL", error.message, error.repair)
