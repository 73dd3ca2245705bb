"""Connection to the API server, with the credentials of a pod or of a kubeconfig file."""

import os
from pathlib import Path

import yaml
from kubernetes import client, config

from advgrpo.cluster.api import Api, RetryPolicy
from advgrpo.errors import ClusterError

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_INVALID_KUBECONFIG = (
    config.ConfigException,
    OSError,
    TypeError,  # It is YAML, but not a mapping.
    UnicodeDecodeError,
    yaml.YAMLError,
)
"""Errors that the client raises for a kubeconfig file that it cannot use."""


def connect(namespace: str = "", policy: RetryPolicy | None = None) -> Api:
    """Return a client with the credentials of this pod, or else of a kubeconfig file.

    Args:
        namespace: Namespace of objects; empty for the pod's own, or the kubeconfig's.
        policy: Timeouts and retries.

    Raises:
        ClusterError: If neither a service account nor a kubeconfig file can be used.
    """
    settings = client.Configuration()
    settings.retries = False
    own = ""
    try:
        config.load_incluster_config(client_configuration=settings)
        own = default = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except (config.ConfigException, OSError) as no_pod:
        try:
            file = os.environ.get("KUBECONFIG")
            config.load_kube_config(file, client_configuration=settings)
            _, context = config.list_kube_config_contexts(file)
        except _INVALID_KUBECONFIG as error:
            raise ClusterError(
                f"no access to Kubernetes: in a pod, {no_pod}; elsewhere, {error}",
                repair="set KUBECONFIG to a file that kubectl can use, or mount the token of the "
                "pod's service account",
            ) from error
        default = context["context"].get("namespace", "default")
    return Api(settings, namespace or default, pod_namespace=own, policy=policy)
