"""Resolution of a preset and overrides to a validated `RunConfig`."""

import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from advgrpo.config.parsing import check_keys, parse
from advgrpo.config.preset_files import PresetFile, read_preset
from advgrpo.config.required import (
    REVISIONS,
    apply_revisions,
    drop_unused_source,
    fill_placeholders,
    missing_settings,
    refuse_incomplete,
)
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import GenerationSettings
from advgrpo.config.yaml_text import YAML_ERRORS, load_yaml
from advgrpo.errors import ConfigError


def resolve(
    preset: str,
    overrides: Iterable[str] = (),
    *,
    needed: Collection[str] | None = None,
) -> RunConfig:
    """Read a preset, apply overrides and validate the result.

    Args:
        preset: Name of a packaged preset, path of a YAML file, or a YAML text; see `read_preset`.
        overrides: Texts such as `training.updates=10`; the value is parsed as YAML.
        needed: Top-level sections that will be used, for instance `policy`. In others, prompt files
            and commits may be missing; they are filled with placeholders. None for all sections.

    Returns:
        The validated settings.

    Raises:
        ConfigError: If the preset does not exist, or a setting is missing or invalid; names key,
            value and repair.
    """
    preset_file, missing = _read(preset, overrides, needed)
    # A misspelled key is reported before a missing value, which can take long to find.
    config = parse(RunConfig, preset_file.settings, where=preset_file.description)
    if missing:
        refuse_incomplete(missing, where=preset_file.titles[0])
    return config


def resolve_generation(preset: str, overrides: Iterable[str] = ()) -> GenerationSettings:
    """Resolve what `advgrpo generate` reads of a preset, as `resolve` does.

    Rules across sections do not matter: images may have another size than the reference images.
    """
    preset_file, missing = _read(preset, overrides, {"policy"})
    settings, where = preset_file.settings, preset_file.description
    # All keys, because one that is misspelled would have no effect.
    check_keys(RunConfig, settings, where=where)
    if missing:
        refuse_incomplete(missing, where=preset_file.titles[0])
    training, evaluation = (settings.get(name) or {} for name in ("training", "evaluation"))
    sampling = {**(training.get("sampling") or {})}
    if (steps := evaluation.get("num_inference_steps")) is not None:
        sampling["num_inference_steps"] = steps
    used = {"policy": settings["policy"], "sampling": sampling}
    return parse(GenerationSettings, used, where=where)


def _read(
    preset: str, overrides: Iterable[str], needed: Collection[str] | None
) -> tuple[PresetFile, dict[str, str]]:
    """Read a preset with overrides, and list what is missing, which placeholders replace."""
    preset_file = read_preset(preset)
    settings = preset_file.settings
    # Before validation, so that overrides can complete or repair a preset.
    apply_overrides(settings, overrides)
    apply_revisions(settings)
    drop_unused_source(settings)
    missing = missing_settings(settings, needed)
    fill_placeholders(settings)
    return preset_file, missing


def apply_overrides(settings: dict[str, Any], overrides: Iterable[str]) -> None:
    """Set values in the plain settings of a preset, in place and without validation.

    Args:
        settings: Plain values, as parsed from YAML.
        overrides: Texts such as `training.updates=10`.

    Raises:
        ConfigError: If an override is malformed, or names a position that a list does not have.
    """
    for override in overrides:
        # Typed, but a pipeline's parameter is any JSON.
        if not isinstance(override, str):
            raise ConfigError(
                f"overrides: {reprlib.repr(override)} is not a text",
                repair='write a list of texts, such as ["training.updates=10"]',
            )
        _apply(settings, override)


def overridden(settings: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return the part of settings that overrides changed, as a preset to be extended would hold it.

    Args:
        settings: Plain values, after `apply_overrides`.
        overrides: The same texts.

    Returns:
        A tree of the overridden keys alone; a list with an overridden item is whole.
    """
    part: dict[str, Any] = {}
    for override in overrides:
        value, below = settings, part
        *sections, last = _keys(override.partition("=")[0])
        for key in sections:
            value = value[key]
            if isinstance(value, list):
                last = key
                break
            below = below.setdefault(key, {})
        below[last] = value if isinstance(value, list) else value[last]
    return part


def _keys(path: str) -> list[str]:
    # Names of repositories contain dots.
    depth = 1 if path.strip().startswith(f"{REVISIONS}.") else -1
    return path.strip().split(".", maxsplit=depth)


def _apply(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = _keys(key)
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
