"""The preset of a pipeline run, as two parameters: a choice, and settings that extend it."""

from advgrpo.config.preset_files import portable_preset, preset_names
from advgrpo.config.yaml_text import YAML_ERRORS, load_yaml
from advgrpo.errors import ConfigError

CUSTOM = "custom"
"""The choice of settings that do not extend a packaged preset, or name it themselves."""


def preset_choices() -> list[str]:
    """List the values of the parameter `preset`."""
    return [*preset_names(), CUSTOM]


def split_preset(preset: str) -> tuple[str, str]:
    """Return a preset as values of the parameters `preset` and `settings_yaml`.

    Args:
        preset: Name of a packaged preset, path of a YAML file, or the text of one.

    Raises:
        ConfigError: If the preset does not exist or is not a mapping in YAML.
    """
    portable = portable_preset(preset)
    return (portable, "") if portable in preset_names() else (CUSTOM, portable)


def join_preset(preset: str, settings_yaml: str) -> str:
    """Return the preset that the two parameters select, for `resolve`.

    Args:
        preset: One of `preset_choices`.
        settings_yaml: YAML text with the settings that differ; empty for none.

    Raises:
        ConfigError: If the settings are missing, or extend another preset than the chosen one.
    """
    if preset == CUSTOM:
        if not settings_yaml.strip():
            raise ConfigError(
                f"preset={CUSTOM}: settings_yaml is empty",
                repair="choose a preset, or write the settings into settings_yaml",
            )
        # The comment, because a text has more than one line.
        return settings_yaml if settings_yaml.startswith("#") else f"# {CUSTOM}\n{settings_yaml}"
    if not settings_yaml.strip():
        return preset
    parent = _parent(settings_yaml)
    if parent not in {None, preset}:
        raise ConfigError(
            f"settings_yaml extends {parent}, but preset={preset}",
            repair=f"choose the preset {CUSTOM}, or remove `extends` from settings_yaml",
        )
    extends = "" if parent else f"extends: {preset}\n"
    return f"# {preset} with settings_yaml\n{extends}{settings_yaml}"


def _parent(text: str) -> object:
    try:
        settings = load_yaml(text)
    except YAML_ERRORS:
        # Reported where the settings are read, with the place in the text.
        return None
    return settings.get("extends") if isinstance(settings, dict) else None
