"""The task resolve-config."""

from typing import NamedTuple

from kfp import dsl

from components.images import TRAINER


@dsl.component(base_image=TRAINER, install_kfp_package=False)
def resolve_config(preset: str, overrides: list[str], processes: int, run_key: str) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    reference_images=str,
    pretraining=str,
    training=str,
    run=str,
    parent_run_id=str,
):
    """Validate a run's settings, hand each task its share, and open the MLflow run.

    Args:
        preset: Name of a shipped preset, or path of a YAML file.
        overrides: Texts such as `training.updates=10`.
        processes: Training processes.
        run_key: Key of an MLflow run to take up again; empty opens one.

    Returns:
        Each task's settings as JSON text, and the id of the MLflow run.
    """
    from advgrpo.tasks import resolve_config as task

    return task.resolve_config(preset, overrides, processes=processes, run_key=run_key)
