"""YAML as people write it: the core schema of YAML 1.2, without repeated keys.

PyYAML implements YAML 1.1, where `010` is 8, `12:30:45` is 45045, `no` is false and `1e-4` is a
text. Here, numbers are decimal or hexadecimal, and all other values stay texts, which numeric
settings refuse.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any, ClassVar

import yaml

# Presets are also a parameter of pipelines: a text must not exhaust the memory of a task.
_MAX_CHARACTERS = 2**20
_MAX_VALUES = 10_000

# Integers of thousands of digits and deep nesting raise errors that are not YAMLError.
YAML_ERRORS = (yaml.YAMLError, ValueError, OverflowError, RecursionError)

# Python's None, which no location, name or commit has.
_NULL = re.compile(r"(?:~|null|Null|NULL|None|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(
    r"(?:[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+)|0x[0-9a-fA-F]+)\Z", re.ASCII
)
_FLOAT = re.compile(
    r"(?:[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z",
    re.ASCII,
)
_MERGE = re.compile(r"<<\Z")
_TAG = "tag:yaml.org,2002:"
_EXACT = 2**53
"""Floats below it are exact integers."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with another schema; a repeated key is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class declares it
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 - untyped
        # PyYAML keeps the last value. Merge keys (<<) are expanded later, so keys that override
        # theirs do not count as repeated.
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            # With the tag, because `1` and `'1'` are different keys.
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                first = lines[name]
                places = f"lines {first} and {line}" if first != line else f"line {line}"
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} occurs twice, in {places}",
                    problem_mark=key.start_mark,
                )
            lines[name] = line
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; quotes texts that either version of YAML reads as another type."""

    # Copied, because `add_implicit_resolver` changes the lists in place.
    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012 - as the base class declares it
        first: list(resolvers)
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    if text.startswith("0x"):
        return int(text, 16)
    try:
        return int(text)
    except ValueError:
        # Python writes infinity and NaN without the dot.
        value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    # 1e3 is a count as well as a rate; 1.0 was meant as a float.
    is_count = "." not in text and value.is_integer() and abs(value) < _EXACT
    return int(value) if is_count else value


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    return str(loader.construct_scalar(node)).lower() == "true"


for _kind, _pattern, _first, _construct in (
    ("null", _NULL, "~nN", yaml.SafeLoader.construct_yaml_null),
    ("bool", _BOOL, "tTfF", _bool),
    ("int", _INT, "-+0123456789", _number),
    ("float", _FLOAT, "-+.0123456789", _number),
    ("merge", _MERGE, "<", None),
    ("str", None, "", yaml.SafeLoader.construct_yaml_str),
    ("seq", None, "", yaml.SafeLoader.construct_yaml_seq),
    ("map", None, "", yaml.SafeLoader.construct_yaml_map),
    # Dates, sets and binary data are not settings.
    (None, None, "", yaml.SafeLoader.construct_undefined),
):
    _tag = _TAG + _kind if _kind else None
    if _pattern is not None:
        # The empty text is null, too; PyYAML looks it up under the empty string.
        _firsts = [*_first, *([""] if _kind == "null" else [])]
        _Loader.add_implicit_resolver(_tag, _pattern, _firsts)
        _Dumper.add_implicit_resolver(_tag, _pattern, _firsts)
    if _construct is not None:
        _Loader.add_constructor(_tag, _construct)


def load_yaml(text: str) -> Any:  # noqa: ANN401 - a tree of YAML values
    """Parse YAML of bounded size; the values are those of JSON.

    Raises:
        ValueError: If the text is too long, or holds too many values.
        YAMLError: If it is not YAML, or a mapping has a key twice. See `YAML_ERRORS` for others.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, more than {_MAX_CHARACTERS}")
    # A copy, because callers may change what they get.
    return deepcopy(_parse(text))


# Cached, because a process reads the same presets often, and PyYAML takes milliseconds for each.
@lru_cache(maxsize=64)
def _parse(text: str) -> Any:  # noqa: ANN401
    value = yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader
    # Aliases can make a short text an endless tree, or one of more values than fit into memory.
    pending, count = [value], 0
    while pending:
        item = pending.pop()
        count += 1
        if count > _MAX_VALUES:
            raise ValueError(f"it holds more than {_MAX_VALUES} values")
        if isinstance(item, dict | list):
            pending += item.values() if isinstance(item, dict) else item
    return value


def dump_yaml(settings: Mapping[str, Any]) -> str:
    """Write settings as YAML that `load_yaml` reads back, in their order."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
