"""Ways to Kubernetes' API server."""

import os
from pathlib import Path

import yaml
from kubernetes import client, config

from advgrpo.cluster.api import Api
from advgrpo.errors import ClusterError

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

UNUSABLE_FILE = (
    config.ConfigException,
    OSError,
    TypeError,  # it is YAML, but no mapping
    UnicodeDecodeError,
    yaml.YAMLError,
)
"""What the client raises for a kubeconfig file that it cannot use."""


def connect(namespace: str = "") -> Api:
    """Reach Kubernetes from within a pod, or as a kubeconfig file says.

    Args:
        namespace: Where objects are; empty for the pod's own, or the kubeconfig's.

    Raises:
        ClusterError: If there is no way to it.
    """
    settings = client.Configuration()
    # Repeating is done here, where it is bounded and can be seen.
    settings.retries = False
    try:
        config.load_incluster_config(client_configuration=settings)
        own = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as no_pod:
        try:
            # The client reads the variable as it is imported only.
            file = os.environ.get("KUBECONFIG")
            config.load_kube_config(file, client_configuration=settings)
            _, context = config.list_kube_config_contexts(file)
        except UNUSABLE_FILE as error:
            raise ClusterError(
                f"no way to Kubernetes: in a pod, {no_pod}; elsewhere, {error}",
                repair="set KUBECONFIG to a file that kubectl can use, or let the pod's service "
                "account mount its token",
            ) from error
        own = context["context"].get("namespace", "default")
    return Api(settings, namespace or own)
