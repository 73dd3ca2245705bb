"""Kinds of Kubernetes objects that are read or written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A kind of object, as it stands in the API server's paths."""

    group: str
    """API group; empty for the core group."""

    version: str
    plural: str
    namespaced: bool = True
    installed_by: str = "Kubernetes"
    """The software that defines the kind, for error messages."""

    @property
    def api(self) -> str:
        """Path of the group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of one object, or of all objects in a namespace."""
        folder = f"{self.api}/namespaces/{namespace}" if self.namespaced else self.api
        return f"{folder}/{self.plural}" + (f"/{name}" if name else "")

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
SECRETS = Resource("", "v1", "secrets")
CONFIG_MAPS = Resource("", "v1", "configmaps")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts")
SERVICES = Resource("", "v1", "services")
CLAIMS = Resource("", "v1", "persistentvolumeclaims")
NODES = Resource("", "v1", "nodes", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", namespaced=False)
WORKFLOWS = Resource("argoproj.io", "v1alpha1", "workflows", installed_by="Kubeflow Pipelines 2.17")
