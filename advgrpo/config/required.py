"""What a preset leaves to its user: prompt files, style images, commits of models on a hub."""

from collections.abc import Iterator, Mapping
from typing import Any

from advgrpo.errors import ConfigError

_PROMPTS = {
    "train": "the file of the prompts to train on: a path or s3:// location",
    "test": "the file of the prompts to measure on, none of which is trained on",
}
_STYLE = "reference_images.source.location"
_DRAFT_COMMIT = "0" * 40
_DRAFT_FOLDER = "not-given"


def left_open(settings: Mapping[str, Any]) -> dict[str, str]:
    """List the settings that must still be given.

    Args:
        settings: Plain values, as YAML gives them.

    Returns:
        Key, with dots, -> what is missing in words; empty if nothing is.
    """
    prompts = settings.get("prompts") or {}
    # Of another type than it should be, it is refused elsewhere.
    prompts = prompts if isinstance(prompts, Mapping) else _PROMPTS
    missing = {f"prompts.{name}": what for name, what in _PROMPTS.items() if name not in prompts}
    if _lacks_style(settings):
        missing[_STYLE] = "the folder of the style's images: a path or s3:// location"
    return missing | {
        f"{key}.revision": f"{weights['location']} is not pinned to a commit"
        for key, weights in _unpinned(settings, "")
    }


def require_all_given(settings: Mapping[str, Any], *, where: str) -> None:
    """Refuse settings that leave something open.

    Args:
        settings: Plain values, as YAML gives them.
        where: Preset or file that they come from, for the error.

    Raises:
        ConfigError: If so; names each key, and the option that sets it.
    """
    missing = left_open(settings)
    if not missing:
        return
    problems = "\n".join(f"  - {key}: {what}" for key, what in missing.items())
    options = " ".join(f"--set {key}={_placeholder(key)}" for key in missing)
    pins = any(key.endswith(".revision") for key in missing)
    explained = " (COMMIT is the full hash of a commit, 40 characters)" if pins else ""
    raise ConfigError(
        f"{where} leaves open what only you can give:\n{problems}",
        repair=f"add {options}{explained}, or write them into a YAML file of your own",
    )


def fill_placeholders(settings: dict[str, Any]) -> None:
    """Put something into what is left open, so that the rest can be read: never to run it."""
    prompts = settings.get("prompts") or {}
    if isinstance(prompts, Mapping):
        files = {name: f"{_DRAFT_FOLDER}/{name}.txt" for name in _PROMPTS}
        settings["prompts"] = {**files, **prompts}
    if _lacks_style(settings):
        settings["reference_images"]["source"]["location"] = f"{_DRAFT_FOLDER}/style"
    for _, weights in _unpinned(settings, ""):
        weights["revision"] = _DRAFT_COMMIT


def is_given(location: str) -> bool:
    """Tell whether a prompt file was given, or is what a draft has in its place."""
    return not location.startswith(f"{_DRAFT_FOLDER}/")


def _unpinned(section: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - YAML values
    if isinstance(section, list):
        items: Any = enumerate(section)
    elif isinstance(section, Mapping):
        location = section.get("location")
        is_hub = isinstance(location, str) and location.startswith("hub://")
        if is_hub and section.get("revision") is None:
            yield path, section
        items = section.items()
    else:
        return
    for name, value in items:
        yield from _unpinned(value, f"{path}.{name}".lstrip("."))


def _lacks_style(settings: Mapping[str, Any]) -> bool:
    references = settings.get("reference_images")
    source = references.get("source") if isinstance(references, Mapping) else None
    if not isinstance(source, Mapping):
        return False
    return source.get("type") == "folder" and "location" not in source


def _placeholder(key: str) -> str:
    if key == _STYLE:
        return "FOLDER"
    return "COMMIT" if key.endswith(".revision") else "FILE"
