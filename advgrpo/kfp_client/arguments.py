"""A run's parameters, found right before they are sent."""

from collections.abc import Sequence

from advgrpo.config import locations, portable_preset, resolve
from advgrpo.errors import ConfigError
from advgrpo.kfp_client.runs import Arguments
from advgrpo.storage import scheme
from advgrpo.tasks.preflight import check_processes, check_prompts, check_reachable

_MAX_PRESET_CHARACTERS = 64 * 1024


def run_arguments(
    preset: str,
    overrides: Sequence[str],
    *,
    processes: int,
    workspace: str,
    run_key: str = "",
) -> Arguments:
    """Validate what a run is asked to do, as its first task will, and make its parameters of it.

    A preset that is a file of this machine is sent as its text.

    Args:
        preset: Name of a shipped preset, or path of a YAML file.
        overrides: Texts such as `training.updates=10`.
        processes: Training processes.
        workspace: `s3://` location for the results.
        run_key: Key of an MLflow run to take up again; empty for a new one.

    Raises:
        ConfigError: If a setting is wrong, or the cluster could not do it.
        PromptFileError: If a prompt file that ships with advgrpo cannot be used.
    """
    text = portable_preset(preset)
    if len(text) > _MAX_PRESET_CHARACTERS:
        raise ConfigError(
            f"preset={preset}: has {len(text)} characters; a pipeline's parameter takes "
            f"{_MAX_PRESET_CHARACTERS}",
            repair="remove settings that equal the defaults, or write `extends:` and what differs",
        )
    config = resolve(text, overrides)
    check_reachable(config, workspace)
    check_processes(config, processes)
    # Those on S3 are read by the run's first task, which has the keys.
    if {scheme(config.prompts.train), scheme(config.prompts.test)} == {"package"}:
        check_prompts(config, processes)
    return {
        "workspace": workspace,
        "preset": text,
        "overrides": list(overrides),
        "processes": processes,
        "run_key": run_key,
    }


def paths_in_image(preset: str, overrides: Sequence[str]) -> dict[str, str]:
    """List what a run expects as files in its images, by the setting that names it."""
    return {
        key: location
        for key, location in locations(resolve(preset, overrides)).items()
        if location.startswith("/")
    }
