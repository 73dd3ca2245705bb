"""Parameters of a pipeline run, validated before they are sent."""

from collections.abc import Sequence

from advgrpo.config.locations import locations
from advgrpo.config.pipeline_preset import join_preset, split_preset
from advgrpo.config.resolution import resolve
from advgrpo.errors import ConfigError
from advgrpo.kfp_client.runs import Arguments
from advgrpo.storage.locations import scheme
from advgrpo.tasks.preflight import check_processes, check_prompts, check_reachable

# All parameters are part of one argument of the task's command line, and Linux limits a single
# argument to 128 KiB.
_MAX_PRESET_CHARACTERS = 64 * 1024


def run_arguments(
    preset: str,
    overrides: Sequence[str],
    *,
    processes: int,
    workspace: str,
    run_key: str = "",
) -> Arguments:
    """Validate a run as its first task will, and return its parameters.

    A preset that is a local file is sent as text.

    Args:
        preset: Name of a packaged preset, or path of a YAML file.
        overrides: Texts such as `training.updates=10`.
        processes: Training processes.
        workspace: `s3://` location for the results.
        run_key: Key of an MLflow run to resume; empty for a new one.

    Raises:
        ConfigError: If a setting is invalid, or the cluster could not run it.
        PromptFileError: If a packaged prompt file is invalid.
    """
    # A local path means nothing in the task's container.
    choice, text = split_preset(preset)
    if len(text) > _MAX_PRESET_CHARACTERS:
        raise ConfigError(
            f"preset={preset}: has {len(text)} characters; a pipeline's parameter takes "
            f"{_MAX_PRESET_CHARACTERS}",
            repair="remove settings that equal the defaults, or write `extends:` and what differs",
        )
    config = resolve(join_preset(choice, text), overrides)
    # The same checks as in the first task, but before anything is uploaded or started.
    check_reachable(config, workspace)
    check_processes(config, processes)
    # Files on S3 are read by the run's first task, which has the credentials.
    if {scheme(config.prompts.train), scheme(config.prompts.test)} == {"package"}:
        check_prompts(config, processes)
    return {
        "workspace": workspace,
        "preset": choice,
        "settings_yaml": text,
        "overrides": list(overrides),
        "processes": processes,
        "mlflow_run_key": run_key,
    }


def paths_in_image(preset: str, overrides: Sequence[str]) -> dict[str, str]:
    """List the paths that must exist in the run's images, by the setting that names each."""
    return {
        key: location
        for key, location in locations(resolve(preset, overrides)).items()
        if location.startswith("/")
    }
