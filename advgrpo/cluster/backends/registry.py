"""The job backends, by the value of `cluster.backend` that selects them."""

from typing import Final

from advgrpo.cluster.backends.base import JobBackend
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.settings import ClusterSettings
from advgrpo.errors import ConfigError

BACKENDS: Final[dict[str, JobBackend]] = {
    "pytorchjob": PyTorchJobs(),
}


def select_backend(settings: ClusterSettings) -> JobBackend:
    """Return the backend that the settings select.

    Raises:
        ConfigError: If `cluster.backend` is unknown.
    """
    backend = BACKENDS.get(settings.backend)
    if backend is None:
        raise ConfigError(
            f"cluster.backend={settings.backend}: unknown job backend",
            repair=f"set it in the chart's values to one of: {', '.join(BACKENDS)}",
        )
    return backend
