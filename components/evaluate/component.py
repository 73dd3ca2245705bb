"""The task evaluate."""

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def evaluate(
    settings: str,
    trained: str,
    discriminator: str,
    reference_images: str,
    workspace: str,
    processes: int,
    parent_run_id: str,
    run_id: str,
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Compare the trained model with its base model and the champion on the test prompts.

    Args:
        settings: All of the run's settings as JSON text.
        trained: Location of the training result.
        discriminator: Location of the pre-trained discriminator, for the report's costs.
        reference_images: Location of the test prompts' reference images.
        workspace: Folder or s3:// location for the batches' metrics and the result.
        processes: Processes that evaluate batches, one per GPU.
        parent_run_id: MLflow run to nest in.
        run_id: Id of the pipeline run. A retry adopts the job that the run has started already.
        report: HTML page with images, curves and tables.
        metrics: All metrics of all models.

    Returns:
        Location of the evaluation.
    """
    from advgrpo.runtime.dispatch import run_task
    from advgrpo.runtime.pipeline_tasks import EVALUATE

    arguments = {
        "settings": settings,
        "trained": trained,
        "discriminator": discriminator,
        "reference_images": reference_images,
        "workspace": workspace,
        "processes": processes,
        "parent_run_id": parent_run_id,
    }
    result = run_task(EVALUATE, arguments, run_id=run_id)
    result.copy(report.path, "report.html")
    metrics.metadata.update(result.write_metrics(metrics.path))
    return result.location
