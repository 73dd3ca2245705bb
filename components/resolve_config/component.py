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
    settings: dsl.Output[dsl.Artifact],
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", parent_run_id=str
):
    """Validate the settings, prompts and surroundings of a run.

    Args:
        preset: Name of a shipped preset, or `custom` for settings_yaml alone.
        settings_yaml: YAML text with the settings that differ from the preset.
        overrides: Texts such as `training.updates=10`.
        processes: Training processes, one per GPU.
        run_key: Key of the MLflow run. A run that was opened with it is resumed; empty opens one.
        workspace: Folder or s3:// location for results. It must be writable.
        settings: YAML with all settings, defaults included.

    Returns:
        Id of the MLflow run.
    """
    from pathlib import Path

    from advgrpo.tasks import resolve_config as task

    run = task.resolve_config(
        preset,
        overrides,
        processes=processes,
        run_key=run_key,
        workspace=workspace,
        settings_yaml=settings_yaml,
    )
    Path(settings.path).write_text(run.settings, encoding="utf-8")
    return (run.parent_run_id,)
