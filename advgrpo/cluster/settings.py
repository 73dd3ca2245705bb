"""Settings of a cluster: images, GPUs, queues, Secrets. The chart writes them."""

import os
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from advgrpo.cluster.quantities import canonical_quantity
from advgrpo.errors import ConfigError
from advgrpo.redaction import is_secret_name
from advgrpo.strict_json import unique_keys

CLUSTER = "ADVGRPO_CLUSTER"
"""Environment variable that holds `ClusterSettings` as JSON text; absent outside a cluster."""

_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

Quantity = Annotated[str, Field(pattern=_QUANTITY), AfterValidator(canonical_quantity)]
"""A quantity, which becomes what Kubernetes writes, for instance `500m` or `16Gi`."""

Name = Annotated[str, Field(pattern=_NAME, max_length=253)]
"""Name of a Kubernetes object."""


def _refuse_secrets(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if is_secret_name(name):
            raise PydanticCustomError(
                "secret",
                "{name} would be stored in a ConfigMap, which many may read: put it into a Secret",
                {"name": name},
            )
    return variables


class _Strict(BaseModel):
    # Unknown keys are refused: a misspelt one would silently leave the default in place.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # The chart's values are in camelCase, as Kubernetes' fields.
        alias_generator=to_camel,
        validate_by_name=True,
    )


class Toleration(_Strict):
    """A taint that a job's pods tolerate, as in a pod's `tolerations`."""

    key: str | None = None
    operator: Annotated[str, Field(pattern="^(Exists|Equal)$")] | None = None
    value: str | None = None
    effect: Annotated[str, Field(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")] | None = None
    toleration_seconds: int | None = None


class Rdma(_Strict):
    """A network device for RDMA between the GPUs of several nodes."""

    resource: str
    """Extended resource of the device plugin, for instance `rdma/hca`."""

    count: Annotated[int, Field(gt=0)] = 1
    """Devices per node."""

    ipc_lock: bool = False
    """Whether pods get the capability IPC_LOCK, which Pod Security "restricted" refuses."""


class NodeShare(_Strict):
    """Resources of a job's pod, besides GPUs."""

    cpu: Quantity = "8"
    memory: Quantity = "64Gi"
    ephemeral_storage: Quantity = "100Gi"
    """Disk for the local cache: weights, reference images, features."""

    shared_memory: Quantity = "8Gi"
    """Size of /dev/shm, which counts towards the memory limit."""


class ClusterSettings(_Strict):
    """Settings of jobs on a cluster. The chart writes them; no result depends on them."""

    backend: str = "auto"
    """Kind of job that runs a task; `auto` for the first that the cluster has."""

    image: Annotated[str, Field(min_length=1)]
    """Image of the trainer."""

    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] = (
        "IfNotPresent"
    )
    image_pull_secrets: tuple[Name, ...] = ()

    service_account: Name = "advgrpo-training"
    """Service account of a job's pods."""

    service_account_token: bool = False
    """Whether a job's pods get the token of their service account, with which they log in to MLflow
    if `MLFLOW_TRACKING_AUTH` is `kubernetes` or `kubernetes-namespaced`."""

    training_runtime: Name = "advgrpo"
    """TrainingRuntime of jobs of the kind TrainJob, which the chart creates."""

    config_map: Name = "advgrpo"
    """ConfigMap whose entries become environment variables of a job's pods."""

    s3_secret: Name = "advgrpo-s3"
    mlflow_secret: Name = "advgrpo-mlflow"

    gpu_resource: str = "nvidia.com/gpu"
    gpus_per_node: Annotated[int, Field(ge=0)] = 8
    """GPUs per node. 0 runs `cluster.processesPerNode` processes on CPU."""

    processes_per_node: Annotated[int, Field(gt=0)] | None = None
    """Processes per node; none for one per GPU."""

    node: NodeShare = NodeShare()
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    priority_class: Name | None = None
    queue: Annotated[str, Field(max_length=63)] | None = None
    """LocalQueue of Kueue; none leaves scheduling to Kubernetes."""

    rdma: Rdma | None = None
    environment: Annotated[dict[str, str], AfterValidator(_refuse_secrets)] = {}
    """Additional environment variables of a job's pods, for instance `NCCL_SOCKET_IFNAME`; no
    secrets."""

    # A service mesh's proxy runs on after the task and would keep the pods from completing.
    annotations: dict[str, str] = {"sidecar.istio.io/inject": "false"}
    """Annotations of a job's pods."""

    cache_claim: Name | None = None
    """PersistentVolumeClaim of the local cache; none uses the node's disk."""

    cache_size: Quantity | None = None
    """Size of the claim, which bounds the cache; none for no bound."""

    run_as_user: Annotated[int, Field(gt=0)] | None = 10001
    """User and group of a job's processes, which the image was built for; none where the platform
    assigns one, as OpenShift does."""

    deadline_seconds: Annotated[int, Field(gt=0)] = 7 * 24 * 3600
    """Longest run time of a job; time in a queue does not count."""

    startup_timeout_seconds: Annotated[int, Field(gt=0)] = 1800
    """Longest time that a job's pods may wait for a node and the image; time in a queue does not
    count."""

    max_restarts: Annotated[int, Field(ge=0)] = 10
    """Restarts of each pod of a job after a failure of its own; evictions do not count."""

    max_retries: Annotated[int, Field(ge=0)] = 2
    """Retries of a job that was lost or deleted, or ended with an error that a retry may fix before
    `cluster.maxRestarts` was reached; none starts later than `cluster.deadlineSeconds` after the
    task."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] = 24 * 3600
    """Time after which Kubernetes deletes a finished job and its pods."""

    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Interval at which a job is polled."""


def cluster_settings() -> ClusterSettings | None:
    """Return the cluster's settings from the environment; None outside of a cluster.

    Raises:
        ConfigError: If they are invalid; names the key.
    """
    text = os.environ.get(CLUSTER)
    return parse_cluster_settings(text) if text else None


def parse_cluster_settings(text: str) -> ClusterSettings:
    """Return the cluster's settings from JSON text.

    Raises:
        ConfigError: If they are invalid; names the key.
    """
    try:
        return ClusterSettings.model_validate_json(unique_keys(text))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the text'}: "
            + _describe_value(e["loc"], e["input"])
            + e["msg"]
            for e in error.errors()
        )
        raise ConfigError(
            f"{CLUSTER} is invalid: {problems}",
            repair="change these keys under `cluster` in the chart's values, then run helm upgrade",
        ) from error
    # ValidationError is a ValueError, too.
    except ValueError as error:
        raise ConfigError(
            f"{CLUSTER} is invalid: {error}",
            repair="correct this key, or the JSON around it",
        ) from error


def _describe_value(location: tuple[int | str, ...], value: JsonValue) -> str:
    """Return a wrong value as text, unless it is or may contain a secret."""
    if not location or isinstance(value, dict | list) or is_secret_name(str(location[-1])):
        return ""
    return re.sub(r"\s+", " ", repr(value))[:80] + ": "
