"""Template of a job's pods: image, resources, environment and the least privileges."""

from kubernetes import client
from kubernetes.utils.quantity import parse_quantity

from advgrpo import __version__
from advgrpo.cluster.credentials import MLFLOW_KEYS
from advgrpo.cluster.job_request import JobRequest, Placement
from advgrpo.cluster.settings import CLUSTER, ClusterSettings, Rdma
from advgrpo.storage.cache import CACHE_VARIABLE, LIMIT_VARIABLE
from advgrpo.storage.credentials import S3_KEYS
from advgrpo.telemetry.kfp_plugin import plugin_credentials

MANAGED_BY = {"app.kubernetes.io/managed-by": "advgrpo"}
"""Label of all jobs that advgrpo creates."""

TASK = "advgrpo/task"
WORKFLOW = "advgrpo/workflow"
VERSION = "app.kubernetes.io/version"
_QUEUE = "kueue.x-k8s.io/queue-name"

_GRACE_SECONDS = 660
"""Time between SIGTERM and SIGKILL for saving state; more than the ranks' own 600 s."""

_CACHE_SHARE = 0.8
"""Share of its volume that fetched folders may take; the rest is for results before upload."""

_CACHE, _TEMPORARY, _SHARED_MEMORY = "/cache", "/tmp", "/dev/shm"  # noqa: S108 - paths in the pod


def pod_labels(request: JobRequest) -> dict[str, str]:
    """Return the labels of a job's pods, by which the chart's network policies select them."""
    return {
        **MANAGED_BY,
        "app.kubernetes.io/part-of": "advgrpo",
        "app.kubernetes.io/component": "job",
        # A label's value must not contain the + of a local version.
        VERSION: __version__.replace("+", "_"),
        TASK: request.task,
    }


def job_labels(request: JobRequest, settings: ClusterSettings) -> dict[str, str]:
    """Return the labels of a job."""
    # Pods must not have the queue's label: Kueue would queue each pod on its own.
    return pod_labels(request) | ({_QUEUE: settings.queue} if settings.queue else {})


def pod_template(
    request: JobRequest, placement: Placement, settings: ClusterSettings, *, container: str
) -> client.V1PodTemplateSpec:
    """Return the template of a job's pods; they meet the Pod Security level "restricted".

    Args:
        request: The task that they run.
        placement: Processes and GPUs per pod.
        settings: Settings of the cluster.
        container: Name of the container.
    """
    user = settings.run_as_user
    return client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(
            labels=pod_labels(request), annotations=settings.annotations or None
        ),
        spec=client.V1PodSpec(
            containers=[_container(request, placement, settings, container)],
            volumes=_volumes(settings),
            service_account_name=settings.service_account,
            # They send no requests to the API server, but may log in to MLflow with it.
            automount_service_account_token=settings.service_account_token,
            # Otherwise every Service of the namespace adds environment variables.
            enable_service_links=False,
            image_pull_secrets=[
                client.V1LocalObjectReference(name=name) for name in settings.image_pull_secrets
            ]
            or None,
            node_selector=settings.node_selector or None,
            tolerations=[
                client.V1Toleration(
                    key=one.key,
                    operator=one.operator,
                    value=one.value,
                    effect=one.effect,
                    toleration_seconds=one.toleration_seconds,
                )
                for one in settings.tolerations
            ]
            or None,
            priority_class_name=settings.priority_class,
            termination_grace_period_seconds=_GRACE_SECONDS,
            security_context=client.V1PodSecurityContext(
                run_as_non_root=True,
                run_as_user=user,
                run_as_group=user,
                fs_group=user,
                # Changing the owner of every file of a large cache would delay each start.
                fs_group_change_policy="OnRootMismatch",
                seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
            ),
        ),
    )


def _container(
    request: JobRequest, placement: Placement, settings: ClusterSettings, name: str
) -> client.V1Container:
    return client.V1Container(
        name=name,
        image=settings.image,
        image_pull_policy=settings.image_pull_policy,
        command=list(request.command),
        env=_environment(settings),
        # The entries of `env` take precedence over these: the ConfigMap contains ADVGRPO_CLUSTER as
        # well.
        env_from=[
            client.V1EnvFromSource(
                config_map_ref=client.V1ConfigMapEnvSource(name=settings.config_map)
            )
        ],
        resources=_resources(placement, settings),
        volume_mounts=[
            client.V1VolumeMount(name="cache", mount_path=_CACHE),
            client.V1VolumeMount(name="temporary", mount_path=_TEMPORARY),
            client.V1VolumeMount(name="shared-memory", mount_path=_SHARED_MEMORY),
        ],
        security_context=client.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            run_as_non_root=True,
            capabilities=_capabilities(settings.rdma),
        ),
        # The status then has the last lines of the log, also when the log is gone.
        termination_message_policy="FallbackToLogsOnError",
    )


def _environment(settings: ClusterSettings) -> list[client.V1EnvVar]:
    plain = {
        CACHE_VARIABLE: _CACHE,
        LIMIT_VARIABLE: _cache_gib(settings),
        # Libraries write to the home directory; the root filesystem is read-only.
        "HOME": _TEMPORARY,
        # Empty, so that the task runs in this pod and does not start a job in turn.
        CLUSTER: "",
        **settings.environment,
    }
    secrets = {
        **{key: (settings.s3_secret, key) for key in S3_KEYS},
        **{key: (settings.mlflow_secret, key) for key in MLFLOW_KEYS},
        **plugin_credentials(),
    }
    # An empty value is left out, as Kubernetes' programs do: Kueue could not admit a TrainJob whose
    # unchangeable fields it would write in another form.
    return [client.V1EnvVar(name=name, value=value or None) for name, value in plain.items()] + [
        client.V1EnvVar(name=name, value_from=_from_secret(secret, key))
        for name, (secret, key) in secrets.items()
    ]


def _cache_gib(settings: ClusterSettings) -> str:
    on_claim = settings.cache_claim is not None
    size = settings.cache_size if on_claim else settings.node.ephemeral_storage
    return "" if size is None else f"{_CACHE_SHARE * float(parse_quantity(size)) / 2**30:.2f}"


def _from_secret(secret: str, key: str) -> client.V1EnvVarSource:
    # Optional: a login needs only some of the keys, and a workload identity none.
    return client.V1EnvVarSource(
        secret_key_ref=client.V1SecretKeySelector(name=secret, key=key, optional=True)
    )


def _resources(placement: Placement, settings: ClusterSettings) -> client.V1ResourceRequirements:
    node = settings.node
    devices = {}
    if placement.gpus_per_node:
        devices[settings.gpu_resource] = str(placement.gpus_per_node)
    if settings.rdma is not None:
        devices[settings.rdma.resource] = str(settings.rdma.count)
    # Requests equal limits: neither memory nor disk can be throttled, and a pod above its request
    # is evicted first. For devices Kubernetes demands it.
    memory = {"memory": node.memory, "ephemeral-storage": node.ephemeral_storage}
    return client.V1ResourceRequirements(
        # No CPU limit: idle cores speed up the loading of images.
        requests={"cpu": node.cpu, **memory, **devices},
        limits={**memory, **devices},
    )


def _volumes(settings: ClusterSettings) -> list[client.V1Volume]:
    claim, node = settings.cache_claim, settings.node
    if claim is None:
        source = {"empty_dir": client.V1EmptyDirVolumeSource(size_limit=node.ephemeral_storage)}
    else:
        volume = client.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
        source = {"persistent_volume_claim": volume}
    # The container runtime's own /dev/shm has 64 MiB, too few for NCCL and data loading.
    shared = client.V1EmptyDirVolumeSource(medium="Memory", size_limit=node.shared_memory)
    return [
        client.V1Volume(name="cache", **source),
        client.V1Volume(name="temporary", empty_dir=client.V1EmptyDirVolumeSource()),
        client.V1Volume(name="shared-memory", empty_dir=shared),
    ]


def _capabilities(rdma: Rdma | None) -> client.V1Capabilities:
    # RDMA pins memory, which needs IPC_LOCK on some nodes; the level "restricted" refuses it.
    add = ["IPC_LOCK"] if rdma is not None and rdma.ipc_lock else None
    return client.V1Capabilities(drop=["ALL"], add=add)
