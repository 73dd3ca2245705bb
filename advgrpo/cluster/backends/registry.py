"""The job backends, by the value of `cluster.backend` that selects them."""

from typing import Final

from advgrpo.cluster.api import Api
from advgrpo.cluster.api_errors import NotFoundError
from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.backends.trainjob import TrainJobs
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import ClusterError, ConfigError

AUTO = "auto"
"""Value of `cluster.backend` that selects the first backend that the cluster has."""

# The order is that of `auto`.
BACKENDS: Final[dict[str, JobBackend]] = {
    "trainjob": TrainJobs(),
    "pytorchjob": PyTorchJobs(),
}


def select_backend(settings: ClusterSettings, api: Api) -> JobBackend:
    """Return the backend that the settings select.

    Raises:
        ConfigError: If `cluster.backend` is unknown.
        ClusterUnavailableError: If the API server does not answer.
        ClusterError: If it is `auto` and the cluster has none of them.
    """
    require_known(settings)
    if settings.backend != AUTO:
        return BACKENDS[settings.backend]
    missing = {name: _missing(each, settings, api) for name, each in BACKENDS.items()}
    for name, lacks in missing.items():
        if not lacks:
            return BACKENDS[name]
    raise ClusterError(
        "the cluster has no kind of job that cluster.backend=auto can use: "
        + "; ".join(f"{name} lacks {lacks}" for name, lacks in missing.items()),
        repair="install Kubeflow Trainer 2.3 with JobSet, or Kubeflow's training operator 1.9, and "
        "upgrade the release of the chart with helm upgrade",
    )


def require_known(settings: ClusterSettings) -> None:
    """Refuse an unknown backend.

    Raises:
        ConfigError: If `cluster.backend` is unknown.
    """
    if settings.backend != AUTO and settings.backend not in BACKENDS:
        raise ConfigError(
            f"cluster.backend={settings.backend}: unknown job backend",
            repair=f"set it in the chart's values to one of: {', '.join((AUTO, *BACKENDS))}",
        )


def is_known(api: Api, resource: Resource) -> bool:
    """Return whether the cluster knows a kind.

    Raises:
        ClusterUnavailableError: If the API server does not answer.
    """
    try:
        # Discovery needs no permissions, unlike reading the CustomResourceDefinition.
        known = api.read(resource.api).get("resources") or ()
    except NotFoundError:
        return False
    return resource.plural in {one["name"] for one in known}


def _missing(backend: JobBackend, settings: ClusterSettings, api: Api) -> str:
    """Return what a backend lacks in the cluster; empty if it can be used."""
    for resource in (backend.resource, *backend.requires, *backend.templates):
        if not is_known(api, resource):
            return f"the kind {resource}"
    for resource in backend.templates:
        try:
            api.get(resource, settings.training_runtime)
        # The chart was installed before the kind, or its role has no permission for it yet.
        except ClusterError as error:
            if error.exit_code >= 128:
                raise
            return f"{resource} {settings.training_runtime}"
    return ""
