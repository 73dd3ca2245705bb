"""Validation of plain values as settings, with errors that name key, value and repair."""

import difflib
import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from advgrpo.config.base import Section
from advgrpo.errors import ConfigError

S = TypeVar("S", bound=Section)

_HINTS = {
    "int_type": "; write digits such as 10, without quotes, leading zeros or a fraction",
    "int_from_float": "; write digits such as 10, without quotes, leading zeros or a fraction",
    "float_type": "; write a number such as 0.5 or 1e-4, without quotes, leading zeros or a unit",
    "bool_type": "; write true or false",
    "string_type": "; write it in quotes, as in --set 'KEY=\"1.10\"'",
}
"""Type of pydantic's problem -> how to write such a value."""

_MAX_LISTED = 20


def parse(section: type[S], settings: Mapping[str, Any], *, where: str) -> S:
    """Validate settings as a section.

    Args:
        section: The model to validate against.
        settings: Plain values, as parsed from YAML or JSON.
        where: Preset, file or parameter of the settings, for the error.

    Raises:
        ConfigError: If a setting is invalid; names key, value and repair.
    """
    try:
        return _validate(section, settings)
    except ValidationError as error:
        raise _refusal(error, section, settings, where) from error


def check_keys(section: type[Section], settings: Mapping[str, Any], *, where: str) -> None:
    """Validate every key of a section, but not the rules across its keys.

    Raises:
        ConfigError: As `parse` does.
    """
    try:
        _validate(section, settings)
    except ValidationError as error:
        # Rules across keys have no location; they run only after all keys are valid.
        if any(problem["loc"] for problem in error.errors()):
            raise _refusal(error, section, settings, where) from error


def _validate(section: type[S], settings: Mapping[str, Any]) -> S:
    # Strict, because true is not the number 1, nor '7' the number 7. As JSON, which has lists
    # where settings have tuples.
    return section.model_validate_json(json.dumps(settings), strict=True)


def _refusal(
    error: ValidationError, section: type[Section], settings: Mapping[str, Any], where: str
) -> ConfigError:
    # A file of another format can have thousands of unknown keys.
    listed = error.errors()[:_MAX_LISTED]
    problems = "\n".join(f"  - {_describe(dict(e), section, settings)}" for e in listed)
    more = error.error_count() - len(listed)
    return ConfigError(
        f"settings of {where} are invalid:\n{problems}" + (f"\n  and {more} more" if more else ""),
        repair="change these keys in the file or with --set KEY=VALUE; "
        "`advgrpo config show` lists all keys",
    )


def _describe(
    problem: Mapping[str, Any], section: type[Section], settings: Mapping[str, Any]
) -> str:
    path = _path(problem["loc"], settings)
    if problem["type"] == "extra_forbidden":
        known = _keys(section)
        if path in known:
            # A key of another member of the union: the type alone was overridden.
            above, _, key = path.rpartition(".")
            return (
                f"{path}: is not a key of this type of {above}; to change the type, set the whole "
                f"section, as in --set '{above}={{type: TYPE}}', without {key}"
            )
        # A key may also be known in another section.
        near = difflib.get_close_matches(path, known, n=1) or difflib.get_close_matches(
            path.rpartition(".")[2], [k.rpartition(".")[2] for k in known], n=1
        )
        return f"{path}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    # Pydantic prepends this to the text of a ValueError that a validator raised.
    message = str(problem["msg"]).removeprefix("Value error, ")
    # A rule across sections, whose text names the settings.
    if not path:
        return message
    if problem["type"] == "union_tag_invalid":
        tag, tags = str(problem["ctx"]["tag"]), str(problem["ctx"]["expected_tags"])
        options = re.findall(r"'(.*?)'", tags)
        # The beginning of a name first: of flux1 and flux2_klein, the former is closer to "flux2".
        near = [option for option in options if tag and option.startswith(tag)]
        near = near or difflib.get_close_matches(tag, options, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"{path}.type={tag}: must be one of {tags}{meant}"
    # The input of these problems is the section around the key, not a value.
    if problem["type"] in {"missing", "union_tag_not_found"}:
        return path + (".type" if problem["type"] != "missing" else "") + ": is missing"
    # Not a section, of which a rule names the keys that it is about.
    ruled = problem["type"] == "value_error" and isinstance(problem["input"], Mapping)
    value = "" if ruled else f"={reprlib.repr(problem['input'])}"
    hint = _HINTS.get(problem["type"], "")
    return f"{path}{value}: {message[0].lower()}{message[1:]}{hint}"


def _path(location: Iterable[str | int], settings: Mapping[str, Any]) -> str:
    """Join the keys that lead to a problem, without pydantic's tags of union members."""
    parts: list[str] = []
    value: Any = settings
    entered = True
    for part in location:
        # What follows a plain value are the types of its union.
        if not isinstance(value, Mapping | list | tuple):
            break
        # Pydantic puts the tag of a union's member first; a key may have the same name.
        if entered and isinstance(value, Mapping) and value.get("type") == part:
            entered = False
            continue
        entered = True
        parts.append(str(part))
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list | tuple) and isinstance(part, int):
            # For a list that is too short, pydantic reports the position after its end.
            value = value[part] if part < len(value) else None
    return ".".join(parts)


def _keys(section: type[Section], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        # Optional sections and unions; sections in lists are not listed.
        for below in (field.annotation, *get_args(field.annotation)):
            if isinstance(below, type) and issubclass(below, Section):
                keys += _keys(below, f"{prefix}{name}.")
    return list(dict.fromkeys(keys))
