"""The pod that Kubeflow Pipelines makes of a task, for a dry run."""

from typing import Any

from advgrpo.cluster.settings import ClusterSettings
from advgrpo.kfp_client.document import PipelineDocument

# Source: Kubeflow Pipelines 2.17, backend/src/v2/compiler/argocompiler.
_PLATFORM_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What Pipelines adds to the security context of each task."""

_TASK = "exec-register"
"""The task with the image that the cluster's settings name; the others differ in it alone."""


def task_pod(document: PipelineDocument, settings: ClusterSettings) -> dict[str, Any]:
    """Return metadata and spec of a task's pod, without the containers of Pipelines itself.

    Args:
        document: The compiled pipeline.
        settings: Settings of the cluster: image and user.
    """
    executor = document.with_user(settings.run_as_user).platform_executor(_TASK)
    context = dict(executor.get("securityContext", {}))
    for name in ("runAsUser", "runAsGroup"):
        if name in context:
            context[name] = int(context[name])
    container = {
        "name": "main",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": document.resources(_TASK),
        "securityContext": {**_PLATFORM_CONTEXT, **context},
    }
    return {
        "metadata": {"labels": dict(executor["podMetadata"]["labels"])},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
