"""Resolution of a preset and overrides to a validated `RunConfig`."""

import reprlib
from collections.abc import Iterable
from typing import Any

from advgrpo.config.parsing import parse
from advgrpo.config.preset_files import read_preset
from advgrpo.config.required import fill_placeholders, require_complete
from advgrpo.config.run import RunConfig
from advgrpo.config.yaml_text import YAML_ERRORS, load_yaml
from advgrpo.errors import ConfigError


def resolve(preset: str, overrides: Iterable[str] = (), *, is_draft: bool = False) -> RunConfig:
    """Read a preset, apply overrides and validate the result.

    Args:
        preset: Name of a packaged preset, path of a YAML file, or a YAML text; see `read_preset`.
        overrides: Texts such as `training.updates=10`; the value is parsed as YAML.
        is_draft: Whether prompt files and commits may be missing, because nothing will run.

    Returns:
        The validated settings.

    Raises:
        ConfigError: If the preset does not exist, or a setting is missing or invalid; names key,
            value and repair.
    """
    preset_file = read_preset(preset)
    settings = preset_file.settings
    # Before validation, so that overrides can complete or repair a preset.
    for override in overrides:
        # Typed, but a pipeline's parameter is any JSON.
        if not isinstance(override, str):
            raise ConfigError(
                f"overrides: {reprlib.repr(override)} is not a text",
                repair='write a list of texts, such as ["training.updates=10"]',
            )
        _apply(settings, override)
    if is_draft:
        fill_placeholders(settings)
    else:
        require_complete(settings, where=preset_file.titles[0])
    return parse(RunConfig, settings, where=preset_file.description)


def _apply(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(
            f"--set {override!r}: does not have the form KEY=VALUE",
            repair="write, for instance, --set training.updates=10",
        )
    try:
        value = load_yaml(text)
    except YAML_ERRORS as error:
        raise ConfigError(
            f"--set {override!r}: the value is not valid YAML: {error}",
            repair="quote a value that contains special characters, as in --set 'key=\"a: b\"'",
        ) from error
    if _has_comment(text, value):
        raise ConfigError(
            f"--set {override!r}: the value ends before '#', which begins a comment in YAML",
            repair="quote the value, as in --set 'key=\"a #b\"', or remove the comment",
        )
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
    # An override may add a section that the preset lacks.
    below = section.setdefault(part, {})
    # `training:` without a value is null in YAML.
    if below is None:
        below = section[part] = {}
    if not isinstance(below, dict | list):
        raise ConfigError(
            f"{path}={reprlib.repr(below)}: is a value, not a section",
            repair=f"set {path} itself, or a key of another section",
        )
    return below


def _index(items: list[Any], part: str, path: str) -> int:
    # Unlike isdigit(), isdecimal() is false for superscripts, which int() refuses.
    if not part.isdecimal() or int(part) >= len(items):
        raise ConfigError(
            f"{path}: {part!r} is not a position in a list of {len(items)}",
            repair=f"use a number from 0 to {len(items) - 1}, or set the whole list",
        )
    return int(part)


def _has_comment(text: str, value: Any) -> bool:  # noqa: ANN401 - a tree of YAML values
    # In quotes, # is part of the value, and the text before it alone is not YAML.
    before, mark, _ = text.rpartition("#")
    # After a number, a comment does no harm.
    if not mark or before[-1:].strip() or not isinstance(value, str | None):
        return False
    try:
        return bool(load_yaml(before) == value)
    except YAML_ERRORS:
        return False
