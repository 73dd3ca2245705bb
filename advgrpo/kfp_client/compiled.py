"""Paths of the compiled pipeline, in a checkout and in the installed package."""

from pathlib import Path

from advgrpo.errors import ConfigError

CHECKOUT = Path(__file__).parents[2]
_PACKAGED = Path(__file__).parent / "adversarial_grpo.yaml"
CHECKED_IN = CHECKOUT / "pipelines" / "adversarial_grpo.yaml"
"""The compiled pipeline of a checkout."""

# The build copies the file into the wheel; a checkout has it in pipelines/ only.
PIPELINE = _PACKAGED if _PACKAGED.is_file() else CHECKED_IN
"""The compiled pipeline in use."""


def check_exists(pipeline: Path) -> None:
    """Check that a compiled pipeline exists.

    Raises:
        ConfigError: If it does not.
    """
    if not pipeline.is_file():
        raise ConfigError(
            f"--pipeline={pipeline}: does not exist",
            repair="run `advgrpo pipeline compile` in a checkout, or use --pipeline FILE",
        )
