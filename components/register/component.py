"""The task register."""

from kfp import dsl

from components.cluster import TRAINER


@dsl.component(base_image=TRAINER, install_kfp_package=False)
def register(
    settings: dsl.Input[dsl.Artifact],
    adapter: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    parent_run_id: str,
) -> str:
    """Register the adapter as a new model version, with its lineage and metrics.

    Args:
        settings: All settings of the run.
        adapter: The result of the training.
        evaluation: The evaluation of the adapter.
        parent_run_id: MLflow run of the version.

    Returns:
        The version, as `models:/name/number`.
    """
    from advgrpo.config.tasks import read_run
    from advgrpo.runtime.results import located
    from advgrpo.tasks import register as task

    return task.register(
        read_run(settings.path).model_dump_json(),
        trained=located(adapter),
        evaluation=located(evaluation),
        parent_run_id=parent_run_id,
    )
