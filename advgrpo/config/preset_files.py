"""Preset files: YAML mappings, each of which may extend another one."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advgrpo.config.yaml_text import YAML_ERRORS, dump_yaml, load_yaml
from advgrpo.errors import ConfigError

_PACKAGED = Path(__file__).with_name("presets")
_EXTENDS = "extends"


@dataclass(frozen=True)
class PresetFile:
    """A preset merged with those that it extends."""

    settings: dict[str, Any]
    """Plain values, as parsed from YAML."""

    text: str
    """The preset's own YAML."""

    titles: tuple[str, ...]
    """Title of the preset, of the one that it extends, and so on."""

    @property
    def description(self) -> str:
        """All titles, for an error."""
        first, *below = self.titles
        return f"{first} (extends {', '.join(below)})" if below else first


def preset_names() -> list[str]:
    """List the presets that ship with the package."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yaml"))


def preset_title(preset: str) -> str:
    """Return a short name: a packaged preset's, a path, or the comment that opens a text."""
    if not _is_text(preset):
        return preset
    first = preset.strip().splitlines()[0]
    return first.removeprefix("#").strip()[:60] if first.startswith("#") else "custom"


def read_preset(preset: str) -> PresetFile:
    """Read a preset and all that it extends.

    A mapping is merged into the one of the extended preset, key by key. Lists and mappings of
    another `type` replace what was there.

    Args:
        preset: Name of a packaged preset, path of a YAML file, or the text of one, which has more
            than one line. `extends` in a file may name a packaged preset or a path relative to the
            file's folder; in a text, a packaged preset.

    Raises:
        ConfigError: If a preset does not exist, is not a mapping in YAML, or extends itself.
    """
    location: str | Path | None
    location = preset if _is_text(preset) else _locate(preset, folder=Path(), key="preset")
    visited: list[str | Path] = []
    texts: list[str] = []
    layers: list[dict[str, Any]] = []
    while location is not None:
        if location in visited:
            chain = " -> ".join(_title(each) for each in [*visited, location])
            raise ConfigError(
                f"presets extend each other in a circle: {chain}",
                repair=f"remove `{_EXTENDS}` from one of them",
            )
        # The text or the normalized path: two spellings of a path are one file.
        visited.append(location)
        texts.append(location if isinstance(location, str) else _read_text(location))
        layers.append(_load(texts[-1], _title(location)))
        location = _pop_parent(layers[-1], location)
    settings: dict[str, Any] = {}
    # From the most distant ancestor, so that each preset overrides what it extends.
    for layer in reversed(layers):
        settings = _merge(settings, layer)
    return PresetFile(settings, texts[0], tuple(_title(each) for each in visited))


def portable_preset(preset: str) -> str:
    """Return a preset that does not depend on the files of this machine.

    Returns:
        The name of a packaged preset; otherwise a YAML text whose first line is a comment with the
        file's name. A file that extends a file is merged with it.
    """
    if preset in preset_names() or _is_text(preset):
        return preset
    found = read_preset(preset)
    text = found.text
    # Packaged presets extend packaged ones alone, so the direct parent decides.
    if not set(found.titles[1:2]) <= set(preset_names()):
        # In the order of the files, which groups related settings.
        text = dump_yaml(found.settings)
    return f"# {Path(preset).name}\n{text}"


def _is_text(preset: str) -> bool:
    return "\n" in preset.strip()


def _title(location: str | Path) -> str:
    if isinstance(location, str):
        return preset_title(location)
    if location.is_relative_to(_PACKAGED):
        return str(location.relative_to(_PACKAGED).with_suffix(""))
    return str(location)


def _pop_parent(settings: dict[str, Any], location: str | Path) -> Path | None:
    """Take `extends` out of a preset's settings and return the file that it names."""
    if _EXTENDS not in settings:
        return None
    # Removed, because `extends` is not a setting and would be refused as an unknown key.
    parent, title = settings.pop(_EXTENDS), _title(location)
    if not isinstance(parent, str) or _is_text(parent):
        raise ConfigError(
            f"preset {title!r}: {_EXTENDS}={parent!r}: is not the name of a preset",
            repair=f"write one name or path, as in `{_EXTENDS}: sd35m_dino`",
        )
    # A text has no folder, and on a cluster none of the files around it.
    folder = None if isinstance(location, str) else location.parent
    return _locate(parent, folder=folder, key=f"preset {title!r}: {_EXTENDS}")


def _locate(preset: str, *, folder: Path | None, key: str) -> Path:
    # Names have no suffix, so a file cannot hide a packaged preset.
    if preset in preset_names():
        return _PACKAGED / f"{preset}.yaml"
    if not preset.endswith((".yaml", ".yml")):
        near = difflib.get_close_matches(preset, preset_names(), n=1)
        raise ConfigError(
            f"{key}={preset}: is not a preset" + (f"; did you mean {near[0]}?" if near else ""),
            repair=f"use one of {', '.join(preset_names())}, or the path of a YAML file",
        )
    if folder is None:
        raise ConfigError(
            f"{key}={preset}: a preset given as text cannot extend a file",
            repair=f"extend one of {', '.join(preset_names())}",
        )
    # Not resolve(): errors show the path as it was given.
    return Path(os.path.normpath(folder / preset))


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"preset file {str(path)!r} cannot be read: {error}",
            repair="give the path of a YAML file in UTF-8",
        ) from error


def _load(text: str, title: str) -> dict[str, Any]:
    try:
        settings = load_yaml(text)
    except YAML_ERRORS as error:
        raise ConfigError(
            f"preset {title!r} is not valid YAML: {error}",
            repair=f"fix the YAML of {title} at the place that the error names",
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"preset {title!r} does not hold settings",
            repair="write a mapping of sections, such as `training:`",
        )
    return settings


def _merge(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """Merge two mappings; where both have a value, that of `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        old = below.get(key)
        # Keys of one member of a union mean nothing to another one.
        is_same_section = (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("type", old.get("type")) == old.get("type")
        )
        merged[key] = _merge(old, value) if is_same_section else value  # type: ignore[arg-type]
    return merged
