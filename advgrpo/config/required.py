"""Settings that a preset leaves to its user: prompt files, style images, hub commits."""

from collections.abc import Iterator, Mapping
from typing import Any

from advgrpo.errors import ConfigError

_PROMPTS = {
    "train": "the file of the training prompts: a path or s3:// location",
    "test": "the file of the evaluation prompts, none of which is a training prompt",
}
_STYLE = "reference_images.source.location"
# Well-formed, so that the validation of the other settings is not stopped by it.
_DRAFT_COMMIT = "0" * 40
_DRAFT_FOLDER = "not-given"


def missing_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """List the settings that the user has yet to set.

    Args:
        settings: Plain values, as parsed from YAML.

    Returns:
        Dotted key -> description of the missing value.
    """
    prompts = settings.get("prompts") or {}
    # A value of another type is reported by the validation.
    prompts = prompts if isinstance(prompts, Mapping) else _PROMPTS
    missing = {f"prompts.{name}": text for name, text in _PROMPTS.items() if name not in prompts}
    if _is_style_missing(settings):
        missing[_STYLE] = "the folder of style images: a path or s3:// location"
    return missing | {
        f"{key}.revision": f"{weights['location']} is not pinned to a commit"
        for key, weights in _find_unpinned(settings, "")
    }


def require_complete(settings: Mapping[str, Any], *, where: str) -> None:
    """Raise an error if the user has yet to set something.

    Args:
        settings: Plain values, as parsed from YAML.
        where: Preset or file of the settings, for the error.

    Raises:
        ConfigError: Names each missing key, and the option that sets it.
    """
    # Before validation, which would report them without the options that set them.
    missing = missing_settings(settings)
    if not missing:
        return
    problems = "\n".join(f"  - {key}: {text}" for key, text in missing.items())
    options = " ".join(f"--set {key}={_placeholder(key)}" for key in missing)
    pins = any(key.endswith(".revision") for key in missing)
    legend = " (COMMIT is the full hash of a commit, 40 characters)" if pins else ""
    raise ConfigError(
        f"{where} has no value for settings that depend on you:\n{problems}",
        repair=f"add {options}{legend}, or set these keys in a YAML file",
    )


def fill_placeholders(settings: dict[str, Any]) -> None:
    """Fill missing settings in place, so that the others can be validated; never to run them."""
    prompts = settings.get("prompts") or {}
    if isinstance(prompts, Mapping):
        files = {name: f"{_DRAFT_FOLDER}/{name}.txt" for name in _PROMPTS}
        # Files that are given stay.
        settings["prompts"] = {**files, **prompts}
    if _is_style_missing(settings):
        settings["reference_images"]["source"]["location"] = f"{_DRAFT_FOLDER}/style"
    for _, weights in _find_unpinned(settings, ""):
        weights["revision"] = _DRAFT_COMMIT


def is_given(location: str) -> bool:
    """Return whether a prompt file was set, rather than filled with a placeholder."""
    return not location.startswith(f"{_DRAFT_FOLDER}/")


def _find_unpinned(section: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - YAML values
    if isinstance(section, list):
        items: Any = enumerate(section)
    elif isinstance(section, Mapping):
        location = section.get("location")
        # Any mapping with a hub location: types are not known before validation.
        is_hub = isinstance(location, str) and location.startswith("hub://")
        if is_hub and section.get("revision") is None:
            yield path, section
        items = section.items()
    else:
        return
    for name, value in items:
        yield from _find_unpinned(value, f"{path}.{name}".lstrip("."))


def _is_style_missing(settings: Mapping[str, Any]) -> bool:
    references = settings.get("reference_images")
    source = references.get("source") if isinstance(references, Mapping) else None
    if not isinstance(source, Mapping):
        return False
    return source.get("type") == "folder" and "location" not in source


def _placeholder(key: str) -> str:
    if key == _STYLE:
        return "FOLDER"
    return "COMMIT" if key.endswith(".revision") else "FILE"
