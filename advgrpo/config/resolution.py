"""The one door to a run's settings: a preset, and what is set over it."""

import reprlib
from collections.abc import Iterable
from typing import Any

from advgrpo.config.parsing import parse
from advgrpo.config.preset_files import YAML_ERRORS, load_yaml, read_preset
from advgrpo.config.required import fill_placeholders, require_all_given
from advgrpo.config.run import RunConfig
from advgrpo.errors import ConfigError


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
    preset_file = read_preset(preset)
    settings = preset_file.settings
    for override in overrides:
        _apply(settings, override)
    if is_draft:
        fill_placeholders(settings)
    else:
        require_all_given(settings, where=preset_file.titles[0])
    return parse(RunConfig, settings, where=preset_file.description)


def _apply(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(
            f"override {override!r} is not of the form key=value",
            repair="write for instance --set training.updates=10",
        )
    try:
        value = load_yaml(text)
    except YAML_ERRORS as error:
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
