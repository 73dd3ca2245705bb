"""What a user adds to a preset: prompt files and commits."""

from importlib import resources

import yaml

from advgrpo.config.required import left_open

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def given(preset: str) -> list[str]:
    """Overrides that give a shipped preset what it leaves open."""
    file = resources.files("advgrpo.config") / "presets" / f"{preset}.yaml"
    return [
        f"{key}={COMMIT if key.endswith('.revision') else f's3://b/{key}.txt'}"
        for key in left_open(yaml.safe_load(file.read_text("utf-8")))
    ]
