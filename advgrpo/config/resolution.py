"""The one door to a run's settings: a preset, and what is set over it."""

import reprlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from advgrpo.config.parsing import parse
from advgrpo.config.required import fill_placeholders, require_all_given
from advgrpo.config.run import RunConfig
from advgrpo.errors import ConfigError

_LONGEST_YAML = 2**20
_MOST_VALUES = 10_000
# Dates that there are not, numbers of thousands of digits and lists in lists in lists are no
# errors of YAML's own.
_YAML_FAULTS = (yaml.YAMLError, ValueError, OverflowError, RecursionError)


def preset_names() -> list[str]:
    """List the presets that ship with the package."""
    folder = resources.files("advgrpo.config") / "presets"
    names = [file.name for file in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def resolve(preset: str, overrides: Iterable[str] = (), *, is_draft: bool = False) -> RunConfig:
    """Read a preset, apply overrides and validate the whole.

    Args:
        preset: Name of a shipped preset, path of a YAML file of the same shape, or the text of
            one, which has more than one line.
        overrides: Texts such as `training.updates=10`; the value is read as YAML.
        is_draft: Whether prompt files and commits may be left open, because nothing will be run.

    Returns:
        The validated settings.

    Raises:
        ConfigError: If the preset is unknown, or a setting is missing or wrong; names key, value
            and repair.
    """
    settings = _read_preset(preset)
    for override in overrides:
        _apply(settings, override)
    if is_draft:
        fill_placeholders(settings)
    else:
        require_all_given(settings, where=preset_title(preset))
    return parse(RunConfig, settings, where=preset_title(preset))


def preset_title(preset: str) -> str:
    """Give a preset a short name: its own, its path, or a text's comment in its first line."""
    if not _is_text(preset):
        return preset
    first = preset.strip().splitlines()[0]
    return first.removeprefix("#").strip()[:60] if first.startswith("#") else "custom"


def _is_text(preset: str) -> bool:
    return "\n" in preset.strip()


def _read_preset(preset: str) -> dict[str, Any]:
    title = preset_title(preset)
    if _is_text(preset):
        text = preset
    elif preset in preset_names():
        text = (resources.files("advgrpo.config") / "presets" / f"{preset}.yaml").read_text("utf-8")
    elif preset.endswith((".yaml", ".yml")):
        try:
            text = Path(preset).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"preset file {preset!r} cannot be read: {error}",
                repair="give the path of a YAML file in UTF-8",
            ) from error
    else:
        raise ConfigError(
            f"there is no preset {preset!r}",
            repair=f"use one of {', '.join(preset_names())}, or the path of a YAML file",
        )
    try:
        settings = _read_yaml(text)
    except _YAML_FAULTS as error:
        raise ConfigError(f"preset {title!r} is not YAML: {error}", repair="correct it") from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"preset {title!r} holds no settings", repair="write sections such as `training:`"
        )
    return settings


def _read_yaml(text: str) -> Any:  # noqa: ANN401 - a tree of YAML values
    if len(text) > _LONGEST_YAML:
        raise ValueError(f"it has {len(text)} characters, more than {_LONGEST_YAML}")
    value = yaml.safe_load(text)
    # By its aliases a short text can be a tree without end, or of more values than fit anywhere.
    waiting, count = [value], 0
    while waiting:
        here = waiting.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES} values")
        if isinstance(here, dict | list):
            waiting += here.values() if isinstance(here, dict) else here
    return value


def _apply(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(
            f"override {override!r} is not of the form key=value",
            repair="write for instance --set training.updates=10",
        )
    try:
        value = _read_yaml(text)
    except _YAML_FAULTS as error:
        raise ConfigError(
            f"the value of override {override!r} is not YAML: {error}",
            repair="quote texts that contain special characters",
        ) from error
    if isinstance(value, str):
        value = _number(value)
    section: Any = settings
    for depth, part in enumerate(parts[:-1]):
        section = _descend(section, part, ".".join(parts[: depth + 1]))
    if isinstance(section, list):
        section[_index(section, parts[-1], key)] = value
    else:
        section[parts[-1]] = value


def _descend(section: Any, part: str, path: str) -> Any:  # noqa: ANN401 - a tree of YAML values
    if isinstance(section, list):
        return section[_index(section, part, path)]
    below = section.setdefault(part, {})
    if below is None:
        below = section[part] = {}
    if not isinstance(below, dict | list):
        raise ConfigError(
            f"{path} is the value {reprlib.repr(below)}, not a section",
            repair=f"set {path} itself, or a key of another section",
        )
    return below


def _index(items: list[Any], part: str, path: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(
            f"{path}: {part!r} is no position in a list of {len(items)}",
            repair="count positions from 0",
        )
    return int(part)


def _number(text: str) -> float | str:
    # YAML 1.1 reads 1e-4 as a text; users mean the number.
    try:
        return float(text)
    except ValueError:
        return text
