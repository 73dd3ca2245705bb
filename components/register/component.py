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
    """Register the adapter as a new model version, with its lineage and metrics.

    Args:
        settings: All of the run's settings as JSON text.
        trained: Location of the training result.
        evaluation: Location of the evaluation.
        parent_run_id: MLflow run of the version.

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
