"""Readiness checks of a cluster: what jobs need, checked before one is started.

The checks need few permissions: what may not be read is reported as unknown (SKIP), not as missing.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from advgrpo.cluster.api import SINGLE_ATTEMPT, Api, Json
from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.backends.registry import require_known, select_backend
from advgrpo.cluster.checks.access import find_denied
from advgrpo.cluster.checks.admission import check_pods
from advgrpo.cluster.checks.check import Check, run_check
from advgrpo.cluster.checks.job_kind import check_kind, check_known
from advgrpo.cluster.checks.secrets import check_mlflow_secret, check_s3_secret
from advgrpo.cluster.connection import connect
from advgrpo.cluster.resources import (
    CLAIMS,
    CONFIG_MAPS,
    EVENTS,
    NAMESPACES,
    NODES,
    SECRETS,
    SERVICE_ACCOUNTS,
    WORKFLOWS,
    Resource,
)
from advgrpo.cluster.roles import launcher_rules
from advgrpo.cluster.settings import CLUSTER, ClusterSettings, parse_cluster_settings
from advgrpo.errors import ClusterError, ConfigError

# Reasons of events. Most failed pulls have the generic reason Failed, see `_image`.
_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_PULLED = "Pulled"
_UPGRADE = "upgrade the release of the chart: helm upgrade"


def examine(
    *,
    namespace: str = "",
    service_account: str = "",
    config_map: str = "advgrpo",
    task_pod: Callable[[ClusterSettings], Json] | None = None,
) -> Generator[Check, None, dict[str, str]]:
    """Check a cluster, from the API server to what the chart's settings name.

    Args:
        namespace: Namespace of jobs; empty for the pod's own, or that of the kubeconfig's context.
        service_account: Account whose permissions are checked; empty for the current one.
        config_map: ConfigMap with the chart's settings, read where the environment lacks them.
        task_pod: Returns the pod of a task; None skips the check of its admission.

    Returns:
        The entries of the ConfigMap; empty if it could not be read.
    """
    text = os.environ.get(CLUSTER, "")
    try:
        api = connect(namespace, SINGLE_ATTEMPT)
        version = api.read("/version").get("gitVersion", "unknown")
    except ClusterError as error:
        yield Check("Kubernetes API server", "FAIL", error.message, error.repair)
        yield _parse(text)[0]
        return {}
    with closing(api):
        checks = _Checks(api)
        yield Check("Kubernetes API server", "OK", f"{api.host}, version {version}")
        yield checks.namespace()
        check, variables = checks.config_map(config_map)
        yield check
        # The environment comes first: it is what the tasks of this pod use.
        check, settings = _parse(text or variables.get(CLUSTER, ""))
        yield check
        # Without settings the default's kind is better than none.
        chosen = settings or ClusterSettings(image="unknown")
        try:
            backend = select_backend(chosen, api)
        except ClusterError as error:
            yield Check("kind of jobs", "FAIL", error.message, error.repair)
            return variables
        yield Check("kind of jobs", "OK", f"{backend.resource} (cluster.backend={chosen.backend})")
        yield from check_kind(api, backend, chosen)
        yield check_known(api, WORKFLOWS)
        yield checks.permissions(backend, service_account)
        if settings is not None:
            yield from checks.settings(settings)
            pod = task_pod(settings) if task_pod else None
            yield from check_pods(api, backend, settings, pod)
    return variables


def require_ready(settings: ClusterSettings) -> None:
    """Refuse to start a run whose jobs could not be started.

    Args:
        settings: Settings that the chart wrote.

    Raises:
        ConfigError: If `cluster.backend` is unknown.
        ClusterUnavailableError: If the API server does not answer.
        ClusterError: If the cluster does not know the kind of job, jobs may not be created, or an
            object that they need is missing.
    """
    with closing(connect(policy=SINGLE_ATTEMPT)) as api:
        # Raises ClusterUnavailableError, for which the task is retried; the checks below would turn
        # it into a failure that is not.
        api.read("/version")
        backend = select_backend(settings, api)
        checks = _Checks(api)
        results = (
            *check_kind(api, backend, settings),
            checks.permissions(backend, ""),
            checks.config_map(settings.config_map)[0],
            *checks.required_objects(settings),
            *check_pods(api, backend, settings, None),
        )
    for check in results:
        # SKIP passes: the launcher's role does not let a task read all of these objects.
        if check.state == "FAIL":
            raise ClusterError(f"{check.name}: {check.found}", repair=check.repair)


def _parse(text: str) -> tuple[Check, ClusterSettings | None]:
    name = f"settings {CLUSTER}"
    if not text:
        return Check(name, "SKIP", "not set here"), None
    try:
        settings = parse_cluster_settings(text)
        require_known(settings)
    except ConfigError as error:
        return Check(name, "FAIL", error.message, error.repair), None
    per_node = settings.processes_per_node or settings.gpus_per_node or 1
    return Check(name, "OK", f"{per_node} processes per node"), settings


class _Checks:
    """Checks of one namespace."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def namespace(self) -> Check:
        namespace = self._api.namespace
        # Reading a namespace needs a ClusterRole, which pods of the chart do not have.
        if namespace == self._api.pod_namespace:
            return Check(f"namespace {namespace}", "OK", "this pod runs in it")
        repair = f"kubectl create namespace {namespace}"
        return self._exists(f"namespace {namespace}", NAMESPACES, namespace, repair)

    def config_map(self, config_map: str) -> tuple[Check, dict[str, str]]:
        """Check the chart's ConfigMap; return also its entries."""
        name = f"ConfigMap {config_map}"
        data: dict[str, str] = {}

        def query() -> Check:
            data.update(self._api.get(CONFIG_MAPS, config_map).get("data") or {})
            missing = [key for key in (CLUSTER, "MLFLOW_TRACKING_URI") if not data.get(key)]
            if missing:
                return Check(name, "FAIL", f"lacks {', '.join(missing)}", _UPGRADE)
            return Check(name, "OK", f"has {', '.join(sorted(data))}")

        check = run_check(name, query, "install the chart in the namespace: helm install")
        return check, data

    def permissions(self, backend: JobBackend, service_account: str) -> Check:
        name = f"permissions of {service_account or 'the current account'}"
        namespace = self._api.namespace

        def query() -> Check:
            missing = find_denied(self._api, launcher_rules(backend), service_account)
            if not missing:
                return Check(name, "OK", f"all that the launcher needs in {namespace}")
            repair = "bind the role that the chart defines for the launcher to the account"
            if not (self._api.pod_namespace or service_account):
                repair += "; pass --service-account to check the account of the tasks"
            return Check(name, "FAIL", f"may not {', '.join(missing)} in {namespace}", repair)

        return run_check(name, query)

    def settings(self, settings: ClusterSettings) -> Iterator[Check]:
        """Check everything that the chart's settings name."""
        yield check_s3_secret(self._api, settings.s3_secret)
        yield check_mlflow_secret(self._api, settings.mlflow_secret)
        yield from self.required_objects(settings)
        yield self._image(settings.image)
        yield self._gpus(settings)

    def required_objects(self, settings: ClusterSettings) -> Iterator[Check]:
        """Check the objects without which no pod of a job can start."""
        account = settings.service_account
        yield self._exists(f"service account {account}", SERVICE_ACCOUNTS, account, _UPGRADE)
        for secret in settings.image_pull_secrets:
            repair = f"kubectl create secret docker-registry {secret}"
            yield self._exists(f"pull secret {secret}", SECRETS, secret, repair)
        if claim := settings.cache_claim:
            repair = "create it, or set cache.enabled=false in the chart's values"
            yield self._exists(f"cache claim {claim}", CLAIMS, claim, repair)
        yield self._queue(settings.queue)

    def _image(self, image: str) -> Check:
        """Check the namespace's events for pods that recently failed to pull the image."""
        name = f"image {image}"

        def query() -> Check:
            # By default Kubernetes keeps events for one hour: a later pull may have succeeded.
            pulls = [one for one in self._api.list(EVENTS) if _is_pull(one, image)]
            if not pulls:
                return Check(
                    name, "SKIP", "no failed pull is known; only a pod that uses it can tell"
                )
            last = max(pulls, key=_time)
            if last["reason"] == _PULLED:
                return Check(name, "OK", "a pod has it")
            repair = "set images.trainer and images.pullSecrets in the chart's values"
            return Check(name, "FAIL", f"a pod could not pull it: {last['message']}", repair)

        return run_check(name, query)

    def _gpus(self, settings: ClusterSettings) -> Check:
        """Check for a node with enough GPUs, among those that jobs may use."""
        wanted, resource = settings.gpus_per_node, settings.gpu_resource
        name = f"nodes with {wanted} {resource}"
        if wanted == 0:
            return Check(name, "SKIP", "processes run on CPU (cluster.gpusPerNode=0)")
        selector = ",".join(f"{key}={value}" for key, value in settings.node_selector.items())
        selected = f" with {selector}" if selector else ""

        def query() -> Check:
            counts = [
                # Not `capacity`, which includes GPUs that the device plugin reports as unhealthy.
                int((node.get("status") or {}).get("allocatable", {}).get(resource, 0))
                for node in self._api.list(NODES, labelSelector=selector)
            ]
            fitting = sum(count >= wanted for count in counts)
            if fitting:
                return Check(name, "OK", f"{fitting} of {len(counts)} nodes{selected}")
            return Check(
                name,
                "FAIL",
                f"none of {len(counts)} nodes{selected}; the largest has "
                f"{max(counts, default=0)} (an autoscaler may add larger ones)",
                "set cluster.gpuResource, cluster.gpusPerNode and cluster.nodeSelector in the "
                "chart's values to what the nodes have",
            )

        return run_check(name, query)

    def _queue(self, queue: str | None) -> Check:
        name = f"queue {queue or '(none)'}"
        if not queue:
            return Check(name, "SKIP", "scheduling is left to Kubernetes")

        def query() -> Check:
            # Kueue serves several versions; the preferred one exists in every release.
            preferred = self._api.read("/apis/kueue.x-k8s.io")["preferredVersion"]["version"]
            resource = Resource("kueue.x-k8s.io", preferred, "localqueues")
            repair = f"create the LocalQueue {queue}, or set cluster.queue in the chart's values"
            return self._exists(name, resource, queue, repair)

        return run_check(name, query, "install Kueue", absent="the cluster does not have Kueue")

    def _exists(self, name: str, resource: Resource, target: str, repair: str) -> Check:
        def query() -> Check:
            self._api.get(resource, target)
            return Check(name, "OK", "exists")

        return run_check(name, query, repair)


def _is_pull(event: Json, image: str) -> bool:
    message, reason = str(event.get("message", "")), str(event.get("reason", ""))
    known = reason in {_PULLED, *_PULL_REASONS} or (reason == "Failed" and "pull" in message)
    return known and image in message


def _time(event: Json) -> str:
    """Return when an event last occurred, which sorts as text."""
    return str(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp") or "")
