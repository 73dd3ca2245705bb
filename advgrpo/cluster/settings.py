"""What is particular to a cluster: images, GPUs, queues, secrets. The chart's values say it."""

import os
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import PydanticCustomError

from advgrpo.errors import ConfigError
from advgrpo.redaction import is_secret_name

CLUSTER = "ADVGRPO_CLUSTER"
"""Environment variable that holds `ClusterSettings` as JSON text; absent outside a cluster."""

_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

Quantity = Annotated[str, Field(pattern=_QUANTITY)]
"""An amount as Kubernetes writes it, for instance `500m` or `16Gi`."""

Name = Annotated[str, Field(pattern=_NAME, max_length=253)]
"""Name of a Kubernetes object."""


def _without_secrets(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if is_secret_name(name):
            raise PydanticCustomError(
                "secret",
                "{name} would lie in a ConfigMap that many may read: put it into a Secret",
                {"name": name},
            )
    return variables


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Toleration(_Strict):
    """A taint that the pods of a job accept, as in a pod's `tolerations`."""

    key: str | None = None
    operator: Annotated[str, Field(pattern="^(Exists|Equal)$")] | None = None
    value: str | None = None
    effect: Annotated[str, Field(pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")] | None = None
    tolerationSeconds: int | None = None  # noqa: N815 - Kubernetes' spelling


class Rdma(_Strict):
    """A network device that lets GPUs of several nodes reach each other's memory."""

    resource: str
    """Extended resource of the device plugin, for instance `rdma/hca`."""

    count: Annotated[int, Field(gt=0)] = 1
    """Devices of each node."""

    ipc_lock: bool = False
    """Whether pods get the capability IPC_LOCK, which the level "restricted" refuses."""


class NodeShare(_Strict):
    """What a pod of a job asks of its node, besides GPUs."""

    cpu: Quantity = "8"
    memory: Quantity = "64Gi"
    ephemeral_storage: Quantity = "100Gi"
    """Room for the local cache: weights, reference images, features."""

    shared_memory: Quantity = "8Gi"
    """Size of /dev/shm, which counts as memory."""


class ClusterSettings(_Strict):
    """How jobs are run on a cluster. The chart writes it; no result depends on it."""

    image: Annotated[str, Field(min_length=1)]
    """The trainer's image."""

    image_pull_policy: Annotated[str, Field(pattern="^(Always|IfNotPresent|Never)$")] = (
        "IfNotPresent"
    )
    image_pull_secrets: tuple[Name, ...] = ()

    service_account: Name = "advgrpo-training"
    """Service account of a job's pods."""

    config_map: Name = "advgrpo"
    """ConfigMap whose entries become environment variables of a job's pods."""

    s3_secret: Name = "advgrpo-s3"
    mlflow_secret: Name = "advgrpo-mlflow"

    gpu_resource: str = "nvidia.com/gpu"
    gpus_per_node: Annotated[int, Field(ge=0)] = 8
    """GPUs of a node. 0 runs processes on CPU, `processes_per_node` of them."""

    processes_per_node: Annotated[int, Field(gt=0)] | None = None
    """Processes of a node; none is one for each GPU."""

    node: NodeShare = NodeShare()
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    priority_class: Name | None = None
    queue: Annotated[str, Field(max_length=63)] | None = None
    """Kueue's LocalQueue; none leaves scheduling to Kubernetes."""

    rdma: Rdma | None = None
    environment: Annotated[dict[str, str], AfterValidator(_without_secrets)] = {}
    """Further variables of a job's pods, for instance `NCCL_SOCKET_IFNAME`; no secrets."""

    annotations: dict[str, str] = {"sidecar.istio.io/inject": "false"}
    """Annotations of a job's pods."""

    cache_claim: Name | None = None
    """PersistentVolumeClaim for the local cache; none uses the node's disk."""

    cache_size: Quantity | None = None
    """Size of the claim; none leaves the cache on it unbounded."""

    run_as_user: Annotated[int, Field(gt=0)] = 10001
    """User and group of a job's processes; the image's own."""

    deadline_seconds: Annotated[int, Field(gt=0)] = 7 * 24 * 3600
    """Longest time that a job may run, waiting in a queue not counted."""

    startup_timeout_seconds: Annotated[int, Field(gt=0)] = 1800
    """Longest time that a job's pods may wait for their node and image, once out of the queue."""

    restarts: Annotated[int, Field(ge=0)] = 10
    """How often each pod of a job is started again after a fault of its own; evictions are not
    counted."""

    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] = 24 * 3600
    """How long an ended job and its pods can be looked at."""

    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Time between two looks at a job."""


def cluster_settings() -> ClusterSettings | None:
    """Read the cluster's settings from the environment; None outside a cluster.

    Raises:
        ConfigError: If they cannot be used; names the key.
    """
    text = os.environ.get(CLUSTER)
    return parse_cluster_settings(text) if text else None


def parse_cluster_settings(text: str) -> ClusterSettings:
    """Read the cluster's settings from JSON text.

    Raises:
        ConfigError: If they cannot be used; names the key.
    """
    try:
        return ClusterSettings.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the text'}: "
            + _shown(e["loc"], e["input"])
            + e["msg"]
            for e in error.errors()
        )
        raise ConfigError(
            f"{CLUSTER} cannot be used: {problems}",
            repair="correct the chart's values under `cluster` and upgrade the release",
        ) from error


def _shown(place: tuple[int | str, ...], value: JsonValue) -> str:
    """Show a wrong value, unless it holds others, which may be secrets."""
    if not place or isinstance(value, dict | list) or is_secret_name(str(place[-1])):
        return ""
    return re.sub(r"\s+", " ", repr(value))[:80] + ": "
