"""The task resolve-config."""

from typing import NamedTuple

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def resolve_config(
    preset: str,
    settings_yaml: str,
    overrides: list[str],
    processes: int,
    run_key: str,
    workspace: str,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    reference_images=str,
    pretraining=str,
    training=str,
    run=str,
    parent_run_id=str,
):
    """Validate the settings, prompts and surroundings of a run, and pass each task its settings.

    Args:
        preset: Name of a shipped preset, or `custom` for settings_yaml alone.
        settings_yaml: YAML text with the settings that differ from the preset.
        overrides: Texts such as `training.updates=10`.
        processes: Training processes, one per GPU.
        run_key: Key of the MLflow run. A run that was opened with it is resumed; empty opens one.
        workspace: Folder or s3:// location for results. It must be writable.

    Returns:
        Each task's settings as JSON text, and the id of the MLflow run.
    """
    from advgrpo.tasks import resolve_config as task

    return task.resolve_config(
        preset,
        overrides,
        processes=processes,
        run_key=run_key,
        workspace=workspace,
        settings_yaml=settings_yaml,
    )
