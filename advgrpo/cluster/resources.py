"""Kinds of objects of Kubernetes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A kind of object."""

    group: str
    """API group; empty for the core."""

    version: str
    plural: str

    def path(self, namespace: str, name: str = "") -> str:
        """Give the path of one object, or of all in a namespace."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
WORKFLOWS = Resource("argoproj.io", "v1alpha1", "workflows")
