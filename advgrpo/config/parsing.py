"""Validate settings, and say in words what is wrong with them."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from advgrpo.config.base import Section
from advgrpo.errors import ConfigError

S = TypeVar("S", bound=Section)

_LISTED = 20


def parse(section: type[S], settings: Mapping[str, Any], *, where: str) -> S:
    """Validate settings as a section.

    Args:
        section: The model to validate against.
        settings: Plain values, as YAML or JSON give them.
        where: Preset, file or parameter that they come from, for the error.

    Raises:
        ConfigError: If a setting is wrong; names key, value and repair.
    """
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        listed = error.errors()[:_LISTED]
        problems = "\n".join(f"  - {_explain(dict(e), section, settings)}" for e in listed)
        more = error.error_count() - len(listed)
        raise ConfigError(
            f"settings of {where} cannot be used:\n{problems}"
            + (f"\n  and {more} more like these" if more else ""),
            repair="correct them in the file or with --set; `advgrpo config show` lists all keys",
        ) from error


def _explain(
    problem: Mapping[str, Any], section: type[Section], settings: Mapping[str, Any]
) -> str:
    path = _path(problem["loc"], settings)
    if problem["type"] == "extra_forbidden":
        known = _keys(section)
        if path in known:
            # Of another type of the section: one type was set over the other's keys.
            above, _, key = path.rpartition(".")
            return (
                f"{path}: no key of this type of {above}; to change the type, set all of it, as in "
                f"--set '{above}={{type: TYPE}}', without {key}"
            )
        near = difflib.get_close_matches(path, known, n=1) or difflib.get_close_matches(
            path.rpartition(".")[2], [k.rpartition(".")[2] for k in known], n=1
        )
        return f"{path}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not path:
        return message
    if problem["type"] == "union_tag_invalid":
        tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
        return f"{path}.type={tag}: is none of {known}"
    if problem["type"] == "missing":
        return f"{path}: is missing"
    return f"{path}={reprlib.repr(problem['input'])}: {message[0].lower()}{message[1:]}"


def _path(location: Iterable[str | int], settings: Mapping[str, Any]) -> str:
    """Write the place of a problem as the keys that lead there, without the types of unions."""
    parts: list[str] = []
    here: Any = settings
    entered = True
    for part in location:
        # Pydantic puts the type of a union's member first; a key may have the same name.
        if entered and isinstance(here, Mapping) and here.get("type") == part:
            entered = False
            continue
        entered = True
        parts.append(str(part))
        if isinstance(here, Mapping):
            here = here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int):
            # Of a list that is too short, the place is behind its end.
            here = here[part] if part < len(here) else None
    return ".".join(parts)


def _keys(section: type[Section], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        for below in (field.annotation, *get_args(field.annotation)):
            if isinstance(below, type) and issubclass(below, Section):
                keys += _keys(below, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))
