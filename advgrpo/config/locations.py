"""Locations and pre-trained models in settings."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_args

from pydantic import AfterValidator

from advgrpo.config.base import Section, Weights, known_scheme

S = TypeVar("S", bound=Section)


def locations(settings: Section) -> dict[str, str]:
    """List the locations of files and folders in settings.

    Args:
        settings: Any section.

    Returns:
        Dotted key -> location.
    """
    found: dict[str, str] = {}
    for prefix, section in _sections(settings, ""):
        for name, field in type(section).model_fields.items():
            value = getattr(section, name)
            if not _is_location(field.annotation, field.metadata) or value is None:
                continue
            # Lists of settings are tuples, because sections are immutable.
            if isinstance(value, tuple):
                found |= {f"{prefix}{name}.{place}": each for place, each in enumerate(value)}
            else:
                found[prefix + name] = value
    return found


def pretrained_weights(settings: Section) -> dict[str, Weights]:
    """List the pre-trained models in settings, by dotted key."""
    return {
        prefix.rstrip("."): section
        for prefix, section in _sections(settings, "")
        if isinstance(section, Weights)
    }


def with_weights(settings: S, replace: Callable[[Weights], Weights]) -> S:
    """Return a copy of settings with other pre-trained models.

    Args:
        settings: Any section.
        replace: Returns the model to use in place of the given one.
    """
    copy: S = _with_weights(settings, replace)
    return copy


def _with_weights(value: Any, replace: Callable[[Weights], Weights]) -> Any:  # noqa: ANN401
    if isinstance(value, Weights):
        return replace(value)
    if isinstance(value, tuple):
        return tuple(_with_weights(item, replace) for item in value)
    if isinstance(value, Section):
        names = type(value).model_fields
        # `model_copy` does not validate: rules across sections hold for the original.
        changed = {name: _with_weights(getattr(value, name), replace) for name in names}
        return value.model_copy(update=changed)
    return value


def _sections(section: Section, prefix: str) -> Iterator[tuple[str, Section]]:
    yield prefix, section
    # Values are visited, not annotations: only a value shows which member of a union is used.
    for name in type(section).model_fields:
        value = getattr(section, name)
        items = enumerate(value) if isinstance(value, tuple) else [("", value)]
        for position, item in items:
            if isinstance(item, Section):
                inner = f"{name}.{position}." if isinstance(value, tuple) else f"{name}."
                yield from _sections(item, prefix + inner)


def _is_location(annotation: Any, metadata: list[Any] | tuple[Any, ...]) -> bool:  # noqa: ANN401
    # Pydantic moves a field's own Annotated into its metadata; that of a union's member stays.
    # By identity of the function: a location type with another validator would not be recognized.
    is_location = any(isinstance(m, AfterValidator) and m.func is known_scheme for m in metadata)
    return is_location or any(
        _is_location(choice, getattr(choice, "__metadata__", ())) for choice in get_args(annotation)
    )
