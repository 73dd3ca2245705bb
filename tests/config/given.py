"""Settings that a user adds to a preset: prompt files and commits."""

from advgrpo.config.preset_files import read_preset
from advgrpo.config.required import REVISIONS, missing_settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def given(preset: str) -> list[str]:
    """Return overrides that set the missing settings of a packaged preset."""
    return [
        f"{key}={COMMIT if key.startswith(REVISIONS) else f's3://b/{key}.txt'}"
        for key in missing_settings(read_preset(preset).settings)
    ]
