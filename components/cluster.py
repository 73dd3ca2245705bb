"""What a task's container is on a cluster: its image, its share of a node, its environment.

Names are those that advgrpo's chart gives by default. Each environment variable is read when the
pipeline is compiled.
"""

import os

from kfp import dsl, kubernetes

LAUNCHER = os.environ.get("ADVGRPO_LAUNCHER_IMAGE", "advgrpo-launcher-python:0.1.0")
"""Holds advgrpo without torch; starts the jobs that need a GPU."""

TRAINER = os.environ.get("ADVGRPO_TRAINER_IMAGE", "advgrpo-trainer-python:0.1.0")
"""Holds advgrpo with all of its dependencies."""

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
"""Labels of the pods of tasks, by which the chart's network policies find them."""

MLFLOW_KEYS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
)


def on_cluster(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
    """Give a task its name in the UI and what its container needs on a cluster.

    It needs little, for what is heavy runs in jobs of its own. All of the environment is optional,
    so that the pipeline also runs where the chart is not installed.

    Args:
        task: Changed in place.
        name: What the UI calls it.
    """
    from advgrpo.storage.credentials import S3_KEYS

    task.set_display_name(name)
    task.set_cpu_request("250m").set_memory_request("512Mi").set_memory_limit("4Gi")
    for label, value in LABELS.items():
        kubernetes.add_pod_label(task, label, value)
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, _same(CONFIG_KEYS), optional=True)
    kubernetes.use_secret_as_env(task, S3_SECRET, _same(S3_KEYS), optional=True)
    kubernetes.use_secret_as_env(task, MLFLOW_SECRET, _same(MLFLOW_KEYS), optional=True)
    return task


def _same(names: tuple[str, ...]) -> dict[str, str]:
    return {name: name for name in names}
