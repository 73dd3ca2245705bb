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
    """Measure the trained model against its base and the champion on held-out prompts.

    Args:
        settings: All of the run's settings as JSON text.
        trained: Location of the training's result.
        discriminator: Location of the pre-trained discriminator, for the report's costs.
        reference_images: Location of the test prompts' reference images.
        workspace: Where measured batches and the result are kept.
        processes: Measuring processes.
        parent_run_id: MLflow run to nest in.
        run_id: The pipeline run; a job that it started already is taken up.
        report: One page with images, curves and a table.
        metrics: Every measure of all models.

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
