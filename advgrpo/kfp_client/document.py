"""The compiled pipeline as a document: its tasks, images and content hash."""

import copy
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from advgrpo import __version__
from advgrpo.errors import ConfigError


@dataclass(frozen=True)
class PipelineDocument:
    """A compiled pipeline."""

    parts: tuple[dict[str, Any], ...]
    """The pipeline spec, then the platform specs."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a compiled pipeline.

        Raises:
            ConfigError: If the file cannot be read, or is not a compiled pipeline.
        """
        try:
            parts = tuple(yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"the compiled pipeline {path} cannot be read: {error}",
                repair="run `advgrpo pipeline compile` in a checkout, or use --pipeline FILE",
            ) from error
        is_mapping = parts and all(isinstance(part, dict) for part in parts)
        if not is_mapping or "pipelineInfo" not in parts[0]:
            raise ConfigError(
                f"{path} is not a compiled pipeline",
                repair="use the YAML file that `advgrpo pipeline compile` writes",
            )
        return cls(parts)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.parts[0]["pipelineInfo"]["name"])

    @property
    def description(self) -> str:
        """The pipeline's description."""
        return str(self.parts[0]["pipelineInfo"].get("description", ""))

    @property
    def tasks(self) -> dict[str, str]:
        """Display name of each task, by task name."""
        tasks = self.parts[0]["root"]["dag"]["tasks"]
        return {name: task["taskInfo"]["name"] for name, task in tasks.items()}

    @property
    def images(self) -> tuple[str, ...]:
        """Images of its tasks."""
        return tuple(sorted({container["image"] for container in self._containers()}))

    @property
    def content(self) -> str:
        """Name of the release and of the content, images aside."""
        # Only the first part: the platform specs name ConfigMaps and Secrets, which differ between
        # installations as images and the default workspace do.
        plain = self._with(lambda _: "").with_workspace("").parts[0]
        return f"{self.name}-{__version__}-{_digest(plain)[:12]}"

    @property
    def version(self) -> str:
        """Name of the content with these images; starts with `content`."""
        # Of all parts: another Secret or annotation needs a version of its own.
        return f"{self.content}-{_digest(self.parts)[:6]}"

    def with_images(self, *, launcher: str = "", trainer: str = "") -> Self:
        """Return a copy whose tasks run in other images.

        Args:
            launcher: Image in place of the launcher's; empty keeps it.
            trainer: Image in place of the trainer's; empty keeps it.
        """

        def replace(image: str) -> str:
            # Only the last part: a registry's path may contain either word.
            name = image.rpartition("/")[2]
            if launcher and "launcher" in name:
                return launcher
            return trainer if trainer and "trainer" in name else image

        return self._with(replace)

    def with_objects(self, names: Mapping[str, str]) -> Self:
        """Return a copy whose tasks read their environment from other objects.

        Args:
            names: New name by the present one, of ConfigMaps and Secrets; empty keeps it.
        """
        changed = type(self)(copy.deepcopy(self.parts))
        for _, executor in changed._platform_executors():
            for kind, sources in (("configMap", "configMapAsEnv"), ("secret", "secretAsEnv")):
                for source in executor.get(sources, []):
                    name = names.get(source[f"{kind}Name"]) or source[f"{kind}Name"]
                    # kfp compiles both fields: the first is deprecated, but older drivers read it
                    # alone.
                    source[f"{kind}Name"] = name
                    source[f"{kind}NameParameter"] = {"runtimeValue": {"constant": name}}
        return changed

    def with_workspace(self, workspace: str) -> Self:
        """Return a copy with another default of the parameter `workspace`; empty for none."""
        changed = type(self)(copy.deepcopy(self.parts))
        inputs = changed.parts[0]["root"].get("inputDefinitions", {}).get("parameters", {})
        for entry in [inputs["workspace"]] if "workspace" in inputs else []:
            for key in ("defaultValue", "isOptional"):
                entry.pop(key, None)
            if workspace:
                entry |= {"defaultValue": workspace, "isOptional": True}
        return changed

    def with_user(self, user: int | None) -> Self:
        """Return a copy whose tasks run as another user.

        Args:
            user: Id of the user and its group; None keeps the present one, by default the image's.
        """
        changed = type(self)(copy.deepcopy(self.parts))
        # As text, which is the JSON of a 64-bit integer of protobuf.
        ids = {} if user is None else dict.fromkeys(("runAsUser", "runAsGroup"), str(user))
        for _, executor in changed._platform_executors():
            executor.setdefault("securityContext", {}).update(ids)
        return changed

    def with_pull_secrets(self, names: Collection[str]) -> Self:
        """Return a copy whose tasks' images are pulled with other Secrets.

        Args:
            names: The Secrets' names; none keeps the present ones.
        """
        changed = type(self)(copy.deepcopy(self.parts))
        for _, executor in changed._platform_executors():
            if names:
                executor["imagePullSecret"] = [
                    {
                        "secretName": name,
                        "secretNameParameter": {"runtimeValue": {"constant": name}},
                    }
                    for name in names
                ]
        return changed

    def with_annotations(self, annotations: Mapping[str, str], *, tasks: Collection[str]) -> Self:
        """Return a copy that adds annotations to the pods of some tasks.

        Args:
            annotations: Value by name.
            tasks: The tasks' names.
        """
        changed = type(self)(copy.deepcopy(self.parts))
        for name, executor in changed._platform_executors():
            if annotations and name.removeprefix("exec-") in tasks:
                executor["podMetadata"].setdefault("annotations", {}).update(annotations)
        return changed

    def to_yaml(self) -> str:
        """Return it as YAML for Kubeflow Pipelines."""
        return str(yaml.dump_all(self.parts, Dumper=yaml.CSafeDumper, sort_keys=False))

    def platform_executor(self, name: str) -> dict[str, Any]:
        """Return the Kubernetes settings of an executor, for instance `exec-train`."""
        return dict(self._platform_executors())[name]

    def resources(self, name: str) -> dict[str, Any]:
        """Return an executor's requests and limits, as a container has them."""
        container = self.parts[0]["deploymentSpec"]["executors"][name]["container"]
        sizes = container.get("resources", {})
        keys = {
            "requests": {"cpu": "resourceCpuRequest", "memory": "resourceMemoryRequest"},
            "limits": {"cpu": "resourceCpuLimit", "memory": "resourceMemoryLimit"},
        }
        return {
            kind: {resource: sizes[key] for resource, key in names.items() if key in sizes}
            for kind, names in keys.items()
        }

    def _with(self, change: Callable[[str], str]) -> Self:
        # The parts are shared with this document.
        changed = type(self)(copy.deepcopy(self.parts))
        for container in changed._containers():
            container["image"] = change(container["image"])
        return changed

    def _containers(self) -> list[dict[str, Any]]:
        executors = self.parts[0]["deploymentSpec"]["executors"]
        return [executor["container"] for executor in executors.values()]

    def _platform_executors(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            found
            for part in self.parts[1:]
            for found in part["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items()
        ]


def _digest(content: object) -> str:
    # Sorted, because equal documents may list their keys in another order.
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
