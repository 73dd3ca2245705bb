"""Image, resources and environment of a task's container on a cluster.

The names are the defaults of advgrpo's chart. Environment variables are read when the pipeline is
compiled.
"""

import os

from kfp import dsl, kubernetes

LAUNCHER = os.environ.get("ADVGRPO_LAUNCHER_IMAGE", "localhost/advgrpo-launcher-python:0.1.0")
"""Image with advgrpo and without torch, for the tasks that start jobs."""

TRAINER = os.environ.get("ADVGRPO_TRAINER_IMAGE", "localhost/advgrpo-trainer-python:0.1.0")
"""Image with advgrpo and all of its dependencies."""

CONFIG_MAP = os.environ.get("ADVGRPO_CONFIG_MAP", "advgrpo")
S3_SECRET = os.environ.get("ADVGRPO_S3_SECRET", "advgrpo-s3")
MLFLOW_SECRET = os.environ.get("ADVGRPO_MLFLOW_SECRET", "advgrpo-mlflow")

CONFIG_KEYS = (
    "ADVGRPO_CLUSTER",
    "ADVGRPO_LOG_FORMAT",
    "ADVGRPO_METRICS_PORT",
    "ADVGRPO_WRITE_PREFIX",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "MLFLOW_TRACKING_URI",
)
LABELS = {"app.kubernetes.io/component": "task", "app.kubernetes.io/part-of": "advgrpo"}
"""Labels of task pods, which the chart's network policies select."""


def on_cluster(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
    """Set a task's name in the UI, and its container's resources and environment.

    Args:
        task: The task, which is changed in place.
        name: Name in the UI.
    """
    from advgrpo.cluster.credentials import MLFLOW_KEYS
    from advgrpo.storage.credentials import S3_KEYS
    from advgrpo.telemetry.kfp_plugin import task_variable

    def by_name(names: tuple[str, ...]) -> dict[str, str]:
        return {name: task_variable(name) for name in names}

    task.set_display_name(name)
    # Heavy work runs in jobs of their own, so the container itself needs little.
    task.set_cpu_request("250m").set_memory_request("512Mi").set_memory_limit("4Gi")
    # Pod Security "restricted" demands it; the rest of the security context comes from Kubeflow. No
    # user: the images have one, OpenShift assigns one, and the chart's upload sets its own.
    kubernetes.set_security_context(task, run_as_non_root=True)
    for label, value in LABELS.items():
        kubernetes.add_pod_label(task, label, value)
    # Optional, so that the pipeline also runs where the chart is not installed.
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, by_name(CONFIG_KEYS), optional=True)
    kubernetes.use_secret_as_env(task, S3_SECRET, by_name(S3_KEYS), optional=True)
    kubernetes.use_secret_as_env(task, MLFLOW_SECRET, by_name(MLFLOW_KEYS), optional=True)
    return task
