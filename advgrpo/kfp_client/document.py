"""The compiled pipeline as it is sent: its images, its tasks, and a name by its content."""

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
    """The pipeline, and what it asks of the platform."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a compiled pipeline.

        Raises:
            ConfigError: If there is no such file, or it is not one.
        """
        try:
            parts = tuple(yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"the compiled pipeline {path} cannot be read: {error}",
                repair="run `advgrpo pipeline compile` in a checkout, or give --pipeline FILE",
            ) from error
        if not parts or not all(isinstance(part, dict) for part in parts):
            raise ConfigError(f"{path} is no compiled pipeline", repair="give another file")
        if "pipelineInfo" not in parts[0]:
            raise ConfigError(f"{path} is no compiled pipeline", repair="give another file")
        return cls(parts)

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return str(self.parts[0]["pipelineInfo"]["name"])

    @property
    def description(self) -> str:
        """What it does."""
        return str(self.parts[0]["pipelineInfo"].get("description", ""))

    @property
    def tasks(self) -> dict[str, str]:
        """What the user interface calls each task, by the task's name."""
        tasks = self.parts[0]["root"]["dag"]["tasks"]
        return {name: task["taskInfo"]["name"] for name, task in tasks.items()}

    @property
    def images(self) -> tuple[str, ...]:
        """The images that its tasks run in."""
        return tuple(sorted({container["image"] for container in self._containers()}))

    @property
    def content(self) -> str:
        """A name for what it does, in whatever images, and the release it is of."""
        return f"{self.name}-{__version__}-{_digest(self._with(lambda _: '').parts[0])[:12]}"

    @property
    def version(self) -> str:
        """A name for exactly this content with these images; it begins with `content`."""
        return f"{self.content}-{_digest(self.parts)[:6]}"

    def with_images(self, *, launcher: str = "", trainer: str = "") -> Self:
        """Run its tasks in other images.

        Args:
            launcher: What replaces the launcher's image; empty keeps it.
            trainer: What replaces the trainer's image; empty keeps it.
        """

        def replaced(image: str) -> str:
            name = image.rpartition("/")[2]
            if launcher and "launcher" in name:
                return launcher
            return trainer if trainer and "trainer" in name else image

        return self._with(replaced)

    def with_objects(self, names: Mapping[str, str]) -> Self:
        """Let its tasks read their environment from other objects.

        Args:
            names: The name to take for each ConfigMap or Secret that the pipeline names; empty
                keeps it.
        """
        changed = type(self)(copy.deepcopy(self.parts))
        for _, executor in changed._platform_executors():
            for kind, sources in (("configMap", "configMapAsEnv"), ("secret", "secretAsEnv")):
                for source in executor.get(sources, []):
                    name = names.get(source[f"{kind}Name"]) or source[f"{kind}Name"]
                    source[f"{kind}Name"] = name
                    source[f"{kind}NameParameter"] = {"runtimeValue": {"constant": name}}
        return changed

    def with_annotations(self, annotations: Mapping[str, str], *, tasks: Collection[str]) -> Self:
        """Let the pods of some tasks have annotations, besides those that they have.

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
        """Write it as Kubeflow Pipelines reads it."""
        return str(yaml.dump_all(self.parts, Dumper=yaml.CSafeDumper, sort_keys=False))

    def _with(self, change: Callable[[str], str]) -> Self:
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
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
