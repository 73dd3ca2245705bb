"""Settings that a preset leaves to its user: prompt files, style images, hub commits."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from advgrpo.config.preset_files import preset_names
from advgrpo.errors import ConfigError

_PROMPTS = {
    "train": "the file of the training prompts: a path or s3:// location",
    "test": "the file of the evaluation prompts, none of which is a training prompt",
}
_STYLE = "reference_images.source.location"
REVISIONS = "revisions"
# Well-formed, so that the validation of the other settings is not stopped by it.
_DRAFT_COMMIT = "0" * 40
_DRAFT_FOLDER = "not-given"


def apply_revisions(settings: dict[str, Any]) -> None:
    """Remove `revisions` from settings, and pin all hub locations without a commit by it, in place.

    A repository, such as that of Stable Diffusion, occurs in several settings; `revisions` names
    the commit of each repository once.

    Args:
        settings: Plain values, as parsed from YAML. `revisions` maps `owner/name` to a commit.

    Raises:
        ConfigError: If `revisions` is not such a mapping, or names a repository that no setting
            uses while the commit of another one is missing.
    """
    revisions = settings.pop(REVISIONS, None) or {}
    if not isinstance(revisions, Mapping):
        raise ConfigError(
            f"{REVISIONS}={revisions!r}: is not a mapping",
            repair=f"write `{REVISIONS}:` and below it a line `owner/name: COMMIT` for each "
            "repository",
        )
    unpinned = [weights for _, weights in _find_unpinned(settings, "")]
    wanted = {repository(weights["location"]) for weights in unpinned}
    for weights in unpinned:
        weights["revision"] = revisions.get(repository(weights["location"]))
    # A repository that overrides replaced may remain in the file, but a misspelled one leaves
    # another without a commit.
    for name in revisions:
        near = difflib.get_close_matches(str(name), wanted - revisions.keys(), n=1)
        if near and name not in repositories(settings):
            raise ConfigError(
                f"{REVISIONS}.{name}: no setting uses this repository",
                repair=f"write {near[0]}, which has no commit yet",
            )


def drop_unused_source(settings: dict[str, Any]) -> None:
    """Remove an unpinned generator of reference images, in place, if existing sets replace it."""
    images = settings.get("reference_images")
    if not isinstance(images, dict) or not images.get("existing"):
        return
    if next(_find_unpinned(images.get("source"), ""), None) is not None:
        images["source"] = None


def repository(location: str) -> str:
    """Return `owner/name` of a hub location."""
    return location.removeprefix("hub://")


def repositories(settings: Mapping[str, Any]) -> list[str]:
    """List the hub repositories that settings use, as `owner/name`."""
    found = [repository(weights["location"]) for _, weights in _find_hub(settings, "")]
    return sorted(set(found))


def unpinned_repositories(settings: Mapping[str, Any]) -> list[str]:
    """List the hub repositories, as `owner/name`, of models without a commit."""
    found = (repository(weights["location"]) for _, weights in _find_unpinned(settings, ""))
    return sorted(set(found))


def missing_settings(
    settings: Mapping[str, Any], sections: Collection[str] | None = None
) -> dict[str, str]:
    """List the settings that the user has yet to set.

    Args:
        settings: Plain values, as parsed from YAML.
        sections: Top-level sections that are needed; None for all.

    Returns:
        Key, as `--set` takes it -> description of the missing value.
    """
    prompts = settings.get("prompts") or {}
    # A value of another type is reported by the validation.
    prompts = prompts if isinstance(prompts, Mapping) else _PROMPTS
    missing = {f"prompts.{name}": text for name, text in _PROMPTS.items() if not prompts.get(name)}
    if _is_style_missing(settings):
        missing[_STYLE] = "the folder of style images: a path or s3:// location"
    unpinned = list(_find_unpinned(settings, ""))
    if sections is not None:
        missing = {key: text for key, text in missing.items() if _top(key) in sections}
        unpinned = [(key, weights) for key, weights in unpinned if _top(key) in sections]
    for name in sorted({repository(weights["location"]) for _, weights in unpinned}):
        users = [key for key, weights in unpinned if repository(weights["location"]) == name]
        missing[f"{REVISIONS}.{name}"] = f"the commit to use of hub://{name} ({', '.join(users)})"
    return missing


def refuse_incomplete(missing: Mapping[str, str], *, where: str) -> NoReturn:
    """Raise an error that names missing settings.

    Args:
        missing: Result of `missing_settings`.
        where: Preset or file of the settings.

    Raises:
        ConfigError: Names each missing key, and how to set it.
    """
    problems = "\n".join(f"  - {key}: {text}" for key, text in missing.items())
    options = " ".join(f"--set {key}={_placeholder(key)}" for key in missing)
    repair = f"add {options}"
    if where.endswith((".yaml", ".yml")):
        repair = f"set them in {where} (`advgrpo config pin {where}` asks the hub for commits), "
        repair += f"or add {options}"
    elif where in preset_names() and any(key.startswith(f"{REVISIONS}.") for key in missing):
        repair = f"write a settings file with `advgrpo init {where} --prompts FILE`, which asks "
        repair += f"the hub for commits, or add {options}"
    raise ConfigError(
        f"{where} has no value for settings that depend on you:\n{problems}", repair=repair
    )


def fill_placeholders(settings: dict[str, Any]) -> None:
    """Fill missing settings in place, so that the others can be validated; never to run them."""
    prompts = settings.get("prompts") or {}
    if isinstance(prompts, Mapping):
        files = {name: f"{_DRAFT_FOLDER}/{name}.txt" for name in _PROMPTS}
        # Files that are given stay.
        files |= {name: value for name, value in prompts.items() if value is not None}
        settings["prompts"] = files
    if _is_style_missing(settings):
        settings["reference_images"]["source"]["location"] = f"{_DRAFT_FOLDER}/style"
    for _, weights in _find_unpinned(settings, ""):
        weights["revision"] = _DRAFT_COMMIT


def mark_placeholders(text: str) -> str:
    """Return the YAML text of settings with a comment at each placeholder, which becomes null."""
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        if value.strip("'") == _DRAFT_COMMIT or not is_given(value):
            line = f"{key}: null  # not set"  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines) + "\n"


def is_given(location: str) -> bool:
    """Return whether a prompt file was set, rather than filled with a placeholder."""
    return not location.startswith(f"{_DRAFT_FOLDER}/")


def _find_unpinned(section: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - YAML values
    for key, weights in _find_hub(section, path):
        if weights.get("revision") is None:
            yield key, weights


def _find_hub(section: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - YAML values
    if isinstance(section, list):
        items: Any = enumerate(section)
    elif isinstance(section, Mapping):
        location = section.get("location")
        # Any mapping with a hub location: types are not known before validation.
        if isinstance(location, str) and location.startswith("hub://"):
            yield path, section
        items = section.items()
    else:
        return
    for name, value in items:
        yield from _find_hub(value, f"{path}.{name}".lstrip("."))


def _is_style_missing(settings: Mapping[str, Any]) -> bool:
    references = settings.get("reference_images")
    source = references.get("source") if isinstance(references, Mapping) else None
    if not isinstance(source, Mapping):
        return False
    return source.get("type") == "folder" and "location" not in source


def _top(key: str) -> str:
    return key.partition(".")[0]


def _placeholder(key: str) -> str:
    if key == _STYLE:
        return "FOLDER"
    return "COMMIT" if key.startswith(f"{REVISIONS}.") else "FILE"
