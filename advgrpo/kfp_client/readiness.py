"""Checks of everything that a run on a cluster needs: Kubernetes, S3, MLflow, Kubeflow Pipelines.

They are here because no lower room may import the cluster, tracking and this client together.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

from advgrpo.cluster.checks.check import Check
from advgrpo.cluster.checks.doctor import examine
from advgrpo.cluster.checks.pipelines import check_single_user_namespace
from advgrpo.cluster.credentials import MLFLOW_KEYS, MLFLOW_LOGINS, describe
from advgrpo.cluster.settings import CLUSTER
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
from advgrpo.redaction import redact
from advgrpo.runtime.environment import environment
from advgrpo.runtime.failures import BUG_REPAIR
from advgrpo.storage.credentials import S3_REQUIRED_KEYS, has_s3_credentials
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
    variables = yield from examine(
        namespace=access.namespace,
        service_account=service_account,
        config_map=config_map,
        task_pod=lambda settings: task_pod(document, settings),
    )
    # What tasks read from the ConfigMap, unless this environment has its own.
    borrowed = {
        name: value
        for name, value in variables.items()
        if name.startswith(("AWS_", TRACKING_URI)) and not os.environ.get(name)
    }
    with environment(borrowed):
        checks = (_workspace(workspace, borrowed), _mlflow(borrowed))
    yield from checks
    yield from _kfp(access)


def _workspace(workspace: str, borrowed: Mapping[str, str]) -> Check:
    name = f"workspace {workspace or '(none given)'}"
    if not workspace:
        return Check(name, "SKIP", "use --workspace s3://bucket/folder to check one")
    try:
        remote = is_remote(workspace)
    except ConfigError as error:
        return Check(name, "FAIL", error.message, error.repair)
    # A local folder is valid for runs on this machine only.
    if not remote:
        return Check(
            name, "FAIL", "a cluster's pods cannot reach it", "use an s3://bucket/folder location"
        )
    # In the chart's pods their absence is an error.
    if CLUSTER not in os.environ and not has_s3_credentials():
        keys = " and ".join(S3_REQUIRED_KEYS)
        found = f"there are no credentials for S3 here; {_IN_CLUSTER_CHECK}"
        return Check(name, "SKIP", found, f"set {keys} to check it from here")
    if found := _unreachable(borrowed.get("AWS_ENDPOINT_URL", "")):
        return Check(name, "SKIP", found)

    def attempt() -> str:
        check_writable(workspace)
        return "a file was written, read and deleted"

    return _check(name, attempt)


def _mlflow(borrowed: Mapping[str, str]) -> Check:
    tracking_uri = os.environ.get(TRACKING_URI, "")
    name = f"MLflow {tracking_uri or '(none)'}"
    if not tracking_uri:
        return Check(name, "SKIP", f"{TRACKING_URI} is not set here; {_IN_CLUSTER_CHECK}")
    if found := _unreachable(borrowed.get(TRACKING_URI, "")):
        return Check(name, "SKIP", found)

    def attempt() -> str:
        # MLflow takes seconds to load.
        from advgrpo.tracking.health import check_server  # noqa: PLC0415

        return f"version {check_server(tracking_uri)}, an artifact was written and deleted"

    try:
        check = _check(name, attempt)
    except ModuleNotFoundError as error:
        repair = "pip install 'advgrpo[launcher]'"
        return Check(name, "SKIP", f"the package {error.name} is not installed here", repair)
    # Only pods have the login that belongs to the chart's address.
    login = any(os.environ.get(key) for key in MLFLOW_KEYS)
    if check.state == "FAIL" and TRACKING_URI in borrowed and not login:
        found = f"without a login: {check.found}; {_IN_CLUSTER_CHECK}"
        return Check(name, "SKIP", found, f"set {describe(MLFLOW_LOGINS)} to check it from here")
    return check


def _unreachable(address: str) -> str:
    """Return why an address of the ConfigMap cannot be checked from here; empty if it can.

    It may be one within the cluster.
    """
    if not address:
        return ""
    url = urlsplit(address)
    try:
        port = url.port or {"http": 80}.get(url.scheme, 443)
        socket.create_connection((url.hostname or "", port), timeout=5).close()
    except (OSError, ValueError) as error:
        return f"{address} cannot be reached from here ({error}); {_IN_CLUSTER_CHECK}"
    return ""


def _kfp(access: Access) -> Iterator[Check]:
    name = "Kubeflow Pipelines"
    single_user = False

    try:
        endpoint_of(access)
    except ConfigError as error:
        yield Check(name, "SKIP", error.message, error.repair)
        return

    def attempt() -> str:
        nonlocal single_user
        server = KfpServer(access)
        single_user = server.namespace is None
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

    yield _check(name, attempt)
    if single_user:
        yield check_single_user_namespace(access.namespace)


def _check(name: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(name, "OK", attempt())
    except AdvGrpoError as error:
        return Check(name, "FAIL", error.message, error.repair)
    except ModuleNotFoundError:
        raise
    # The checks after this one must still run.
    except Exception as error:  # noqa: BLE001
        found = redact(f"{type(error).__name__}: {error}")
        return Check(name, "FAIL", found, BUG_REPAIR)
