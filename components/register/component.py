"""The task register."""

from kfp import dsl

from components.cluster import TRAINER


@dsl.component(base_image=TRAINER, install_kfp_package=False)
def register(
    settings: str,
    trained: str,
    evaluation: str,
    parent_run_id: str,
) -> str:
    """Register the adapter as a new version of a model, with its lineage and its measures.

    Args:
        settings: All of the run's settings as JSON text.
        trained: Location of the training's result.
        evaluation: Location of the evaluation.
        parent_run_id: MLflow run that the version belongs to.

    Returns:
        The version, as `models:/name/number`.
    """
    from advgrpo.tasks import register as task

    return task.register(
        settings,
        trained=trained,
        evaluation=evaluation,
        parent_run_id=parent_run_id,
    )
