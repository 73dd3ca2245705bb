"""The pods of a job: image, share of a node, environment, and as few rights as they need."""

from kubernetes import client
from kubernetes.utils.quantity import parse_quantity

from advgrpo import __version__
from advgrpo.cluster.job_request import JobRequest, Placement
from advgrpo.cluster.settings import CLUSTER, ClusterSettings, Rdma
from advgrpo.storage import CACHE_VARIABLE, LIMIT_VARIABLE
from advgrpo.storage.credentials import S3_KEYS

CONTAINER = "pytorch"
"""The name by which the training operator knows the container."""

MANAGED_BY = {"app.kubernetes.io/managed-by": "advgrpo"}
"""The label that all jobs of ours have."""

TASK = "advgrpo/task"
WORKFLOW = "advgrpo/workflow"
VERSION = "app.kubernetes.io/version"

MLFLOW_KEYS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
)

_GRACE_SECONDS = 660
"""Time for saving state once a pod is asked to stop; more than the ranks' own 600."""

_CACHE_SHARE = 0.8
"""Part of its volume that fetched folders may take; the rest is for results on their way."""

_CACHE, _TEMPORARY, _SHARED_MEMORY = "/cache", "/tmp", "/dev/shm"  # noqa: S108 - in the pod


def labels_of(work: JobRequest) -> dict[str, str]:
    """Give the labels of a job and its pods. The chart's network policies know the pods by them."""
    return {
        **MANAGED_BY,
        "app.kubernetes.io/part-of": "advgrpo",
        "app.kubernetes.io/component": "job",
        VERSION: __version__.replace("+", "_"),
        TASK: work.task,
    }


def pod_template(
    work: JobRequest, shape: Placement, settings: ClusterSettings
) -> client.V1PodTemplateSpec:
    """Write the pods of a job; they meet Kubernetes' Pod Security level "restricted".

    Args:
        work: What they run.
        shape: How many processes and GPUs each holds.
        settings: The cluster's.
    """
    user = settings.run_as_user
    return client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(
            labels=labels_of(work), annotations=settings.annotations or None
        ),
        spec=client.V1PodSpec(
            containers=[_container(work, shape, settings)],
            volumes=_volumes(settings),
            service_account_name=settings.service_account,
            # They ask nothing of the API server.
            automount_service_account_token=False,
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
                    toleration_seconds=one.tolerationSeconds,
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
                fs_group_change_policy="OnRootMismatch",
                seccomp_profile=client.V1SeccompProfile(type="RuntimeDefault"),
            ),
        ),
    )


def _container(work: JobRequest, shape: Placement, settings: ClusterSettings) -> client.V1Container:
    return client.V1Container(
        name=CONTAINER,
        image=settings.image,
        image_pull_policy=settings.image_pull_policy,
        command=list(work.command),
        env=_environment(settings),
        env_from=[
            client.V1EnvFromSource(
                config_map_ref=client.V1ConfigMapEnvSource(name=settings.config_map)
            )
        ],
        resources=_resources(shape, settings),
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
        termination_message_policy="FallbackToLogsOnError",
    )


def _environment(settings: ClusterSettings) -> list[client.V1EnvVar]:
    plain = {
        CACHE_VARIABLE: _CACHE,
        LIMIT_VARIABLE: _cache_gib(settings),
        # What libraries keep at home; the root filesystem cannot be written to.
        "HOME": _TEMPORARY,
        # The task is to run here, not to start a job of its own.
        CLUSTER: "",
        **settings.environment,
    }
    secrets = {settings.s3_secret: S3_KEYS, settings.mlflow_secret: MLFLOW_KEYS}
    return [client.V1EnvVar(name=name, value=value) for name, value in plain.items()] + [
        client.V1EnvVar(name=key, value_from=_from_secret(secret, key))
        for secret, keys in secrets.items()
        for key in keys
    ]


def _cache_gib(settings: ClusterSettings) -> str:
    on_claim = settings.cache_claim is not None
    room = settings.cache_size if on_claim else settings.node.ephemeral_storage
    return "" if room is None else f"{_CACHE_SHARE * float(parse_quantity(room)) / 2**30:.2f}"


def _from_secret(secret: str, key: str) -> client.V1EnvVarSource:
    # A server may ask for no credentials, or for a token instead of a password.
    return client.V1EnvVarSource(
        secret_key_ref=client.V1SecretKeySelector(name=secret, key=key, optional=True)
    )


def _resources(shape: Placement, settings: ClusterSettings) -> client.V1ResourceRequirements:
    share = settings.node
    devices = {}
    if shape.gpus_per_node:
        devices[settings.gpu_resource] = str(shape.gpus_per_node)
    if settings.rdma is not None:
        devices[settings.rdma.resource] = str(settings.rdma.count)
    memory = {"memory": share.memory, "ephemeral-storage": share.ephemeral_storage}
    return client.V1ResourceRequirements(
        # Cores have no limit: what nobody else uses is ours for loading images.
        requests={"cpu": share.cpu, **memory, **devices},
        limits={**memory, **devices},
    )


def _volumes(settings: ClusterSettings) -> list[client.V1Volume]:
    claim, share = settings.cache_claim, settings.node
    if claim is None:
        place = {"empty_dir": client.V1EmptyDirVolumeSource(size_limit=share.ephemeral_storage)}
    else:
        source = client.V1PersistentVolumeClaimVolumeSource(claim_name=claim)
        place = {"persistent_volume_claim": source}
    shared = client.V1EmptyDirVolumeSource(medium="Memory", size_limit=share.shared_memory)
    return [
        client.V1Volume(name="cache", **place),
        client.V1Volume(name="temporary", empty_dir=client.V1EmptyDirVolumeSource()),
        client.V1Volume(name="shared-memory", empty_dir=shared),
    ]


def _capabilities(rdma: Rdma | None) -> client.V1Capabilities:
    # RDMA pins memory. The level "restricted" refuses this capability, so it must be asked for.
    add = ["IPC_LOCK"] if rdma is not None and rdma.ipc_lock else None
    return client.V1Capabilities(drop=["ALL"], add=add)
