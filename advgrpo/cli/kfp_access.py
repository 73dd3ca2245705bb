"""Reach Kubeflow Pipelines as the options of a command say."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advgrpo.kfp_client import Access, KfpServer, PipelineDocument

_OBJECTS = {
    "advgrpo": "ADVGRPO_CONFIG_MAP",
    "advgrpo-s3": "ADVGRPO_S3_SECRET",
    "advgrpo-mlflow": "ADVGRPO_MLFLOW_SECRET",
}
"""Variables that name what the compiled pipeline reads its environment from, by its own name."""


def kfp_access(
    endpoint: str,
    namespace: str,
    token: str,
    token_file: Path | None,
    cookies: str,
    ca: Path | None,
) -> "Access":
    """Put a command's options together, which `advgrpo.cli.options` describes."""
    from advgrpo.kfp_client import Access

    return Access(
        endpoint=endpoint,
        namespace=namespace,
        token=token,
        token_file=token_file,
        cookies=cookies,
        ca_file=ca,
    )


def kfp_server(
    endpoint: str,
    namespace: str,
    token: str,
    token_file: Path | None,
    cookies: str,
    ca: Path | None,
) -> "KfpServer":
    """Make a server of a command's options; see `kfp_access`."""
    from advgrpo.kfp_client import KfpServer

    return KfpServer(kfp_access(endpoint, namespace, token, token_file, cookies, ca))


def pipeline_document(
    pipeline: Path | None, *, launcher_image: str, trainer_image: str
) -> "PipelineDocument":
    """Read the compiled pipeline, with the images and objects of this installation."""
    from advgrpo.kfp_client import PipelineDocument
    from advgrpo.kfp_client.compiled import PIPELINE
    from advgrpo.runtime.pipeline_tasks import JOB_TASKS

    document = PipelineDocument.read(pipeline or PIPELINE)
    names = {name: os.environ.get(variable, "") for name, variable in _OBJECTS.items()}
    # The launchers of jobs serve metrics while their jobs run.
    launchers = [task.name for task in JOB_TASKS]
    document = document.with_objects(names).with_annotations(_annotations(), tasks=launchers)
    return document.with_images(launcher=launcher_image, trainer=trainer_image)


def _annotations() -> dict[str, str]:
    """Give what lets Prometheus find the pods of tasks, where they serve metrics."""
    port = os.environ.get("ADVGRPO_METRICS_PORT")
    return {"prometheus.io/scrape": "true", "prometheus.io/port": port} if port else {}
