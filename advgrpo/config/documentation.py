"""Write docs/configuration.md from the settings' models."""

import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from advgrpo.config.base import Section
from advgrpo.config.preset_files import preset_names
from advgrpo.config.run import RunConfig

_HEAD = """# Configuration

Written by `make docs` from the models in `advgrpo/config/`; change them, not this page.

A run's settings are one tree. Start from a preset or from a YAML file of the same shape, and change
single keys:

    advgrpo config show --preset pocket --set training.updates=10
    advgrpo config validate --preset my-run.yaml --processes 8

Presets: {presets}.
All but `pocket` leave the prompt files and the commits of hub:// locations to you, `sd35m_style`
the folder of pictures too; validating one says which options give them. Those named `released`
have the numbers of Adv-GRPO's released code ([from-adv-grpo.md](from-adv-grpo.md)). `advgrpo plan`
tells what a run needs before it is started.

A location is a local path, `s3://bucket/key`, `package://python.package/folder` (files that an
installed package ships) or `hub://owner/name`.
"""


_PLAIN = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "none",
    dict: "mapping",
}


def markdown() -> str:
    """Describe every setting: key, type, default and meaning.

    Returns:
        One Markdown table per section, in the order of `RunConfig`.
    """
    titles: dict[type[Section], str] = {}
    for title, section in _sections("", RunConfig):
        titles.setdefault(section, title)
    head = _HEAD.format(presets=", ".join(f"`{name}`" for name in preset_names()))
    return "\n".join([head, *(line for section in titles for line in _table(section, titles))])


def _sections(path: str, section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    kind = section.model_fields.get("type")
    yield (f"{path} (`type: {kind.default}`)" if kind else path or "The whole"), section
    for name, field in section.model_fields.items():
        for below in _sections_in(field.annotation):
            yield from _sections(f"{path}.{name}".lstrip("."), below)


def _sections_in(annotation: Any) -> list[type[Section]]:  # noqa: ANN401 - any annotation
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in _sections_in(part)]


def _table(section: type[Section], titles: dict[type[Section], str]) -> Iterator[str]:
    yield f"## {titles[section]}\n"
    yield f"{_one_line(section.__doc__)}\n"
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in section.model_fields.items():
        cells = [f"`{name}`", _type_name(field, titles), _default(field), _meaning(field)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _meaning(field: FieldInfo) -> str:
    below = _sections_in(field.annotation)
    return _one_line(field.description) or " Or: ".join(_one_line(s.__doc__) for s in below)


def _type_name(field: FieldInfo, titles: dict[type[Section], str]) -> str:
    limits = []
    for limit in field.metadata:
        match limit:
            case Gt(gt=value):
                limits.append(f"> {value}")
            case Ge(ge=value):
                limits.append(f"≥ {value}")
            case Lt(lt=value):
                limits.append(f"< {value}")
            case Le(le=value):
                limits.append(f"≤ {value}")
    return ", ".join([_annotation_name(field.annotation, titles), *limits])


def _annotation_name(annotation: Any, titles: dict[type[Section], str]) -> str:  # noqa: ANN401
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _annotation_name(arguments[0], titles)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        kinds = [_annotation_name(part, titles) for part in arguments if part is not Ellipsis]
        return "list of " + ", ".join(dict.fromkeys(kinds))
    if origin in {Union, types.UnionType}:
        return " or ".join(_annotation_name(part, titles) for part in arguments)
    if annotation in titles:
        anchor = re.sub(r"[^a-z0-9_ -]", "", titles[annotation].lower()).replace(" ", "-")
        kind = annotation.model_fields.get("type")
        return f"[{kind.default if kind else 'section'}](#{anchor})"
    return _PLAIN[origin or annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Section):
        kind = type(default).model_fields.get("type")
        return f"`{kind.default}`" if kind else "its own"
    if default is None:
        return "none"
    if isinstance(default, tuple) and any(isinstance(item, Section) for item in default):
        default = [item.model_dump(mode="json") for item in default]
    return f"`{json.dumps(default)}`"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
